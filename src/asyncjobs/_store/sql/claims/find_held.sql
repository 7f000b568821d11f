-- Which of these claims are still held by this incarnation.
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation
select id, cancel_requested
  from asyncjobs.live_jobs
 where id = any ($1::bigint[]) and runner = $3::bigint and token = ($2::bigint[])[width_bucket(id, $1::bigint[])]
