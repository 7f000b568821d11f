-- Let jobs go that this incarnation holds: to be retried, snoozed, or because the runner stops.
--
-- $1 bigint[]  ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation: the fence of finish_jobs.sql
-- $4 smallint[] live states to wait in
-- $5 float8[]  seconds until due; null keeps the job's place in its queue
-- $6 boolean[] whether the attempt is given back
-- $7 text[]    errors, JSON
-- The token stays: it only grows. Returns the ids it was allowed to let go.
with returned as (
  update asyncjobs.live_jobs
     set runner = null, started_at = null,
         state = ($4::smallint[])[width_bucket(id, $1::bigint[])],
         scheduled_at = coalesce(
           clock_timestamp() + ($5::double precision[])[width_bucket(id, $1::bigint[])] * interval '1 s', scheduled_at),
         attempt = attempt - case when ($6::boolean[])[width_bucket(id, $1::bigint[])] then 1 else 0 end,
         errors = asyncjobs.remember(errors, ($7::text[])[width_bucket(id, $1::bigint[])]::jsonb)
   where id = any ($1::bigint[]) and runner = $3::bigint and token = ($2::bigint[])[width_bucket(id, $1::bigint[])]
  returning id, queue
)
select returned.id
  from returned, (select count(asyncjobs.wake(queue)) from (select distinct queue from returned) queues) woken
