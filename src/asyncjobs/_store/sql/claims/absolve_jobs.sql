-- Say that these jobs are not to be blamed when their runner is gone: it was told to stop, and left them running in threads.
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation
-- For the rescue they have not begun. They stay with the runner, which holds its lock as long as its process lives.
with cleared as (
  update asyncjobs.runners set begun = '{}', begun_tokens = '{}' where incarnation = $3::bigint
)
update asyncjobs.live_jobs
   set started_at = null
 where id = any ($1::bigint[]) and runner = $3::bigint and token = ($2::bigint[])[width_bucket(id, $1::bigint[])]
returning id
