-- Let jobs go that this incarnation holds: to be retried, snoozed, or because the runner stops.
--
-- $1 bigint[]  ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation: the fence of finish_jobs.sql
-- $4 smallint[] live states to wait in
-- $5 float8[]  seconds until due; null keeps the job's place in its queue
-- $6 boolean[] whether the attempt is given back
-- $7 text[]    errors, JSON
-- A job somebody asked to stop does not wait for another attempt: it is cancelled. Whether it was asked is read from the row
-- as it was locked, because the request may be committing just now.
-- One that loses its place and has a fair key waits in line (deal_turns.sql). One that is suspected of killing runners stays so. The token stays: it only grows. Returns the ids it was allowed to let go.
with held as materialized (
  select id, cancel_requested
    from asyncjobs.live_jobs
   where id = any ($1::bigint[]) and runner = $3::bigint and token = ($2::bigint[])[width_bucket(id, $1::bigint[])]
   order by id
     for update
), returned as (
  update asyncjobs.live_jobs
     set runner = null, started_at = null,
         state = case when crashes > 0 and ($4::smallint[])[width_bucket(id, $1::bigint[])] = 0 then 4
                      when fair_key is not null and ($4::smallint[])[width_bucket(id, $1::bigint[])] = 0
                           and ($5::double precision[])[width_bucket(id, $1::bigint[])] is not null then 5
                      else ($4::smallint[])[width_bucket(id, $1::bigint[])] end,
         scheduled_at = coalesce(
           clock_timestamp() + ($5::double precision[])[width_bucket(id, $1::bigint[])] * interval '1 s', scheduled_at),
         attempt = attempt - case when ($6::boolean[])[width_bucket(id, $1::bigint[])] then 1 else 0 end,
         errors = asyncjobs.remember(errors, ($7::text[])[width_bucket(id, $1::bigint[])]::jsonb)
   where id = any (array(select id from held where not cancel_requested))
  returning id, queue, lock_key, limited
), cancelled as (
  delete from asyncjobs.live_jobs
   where id = any (array(select id from held where cancel_requested))
  returning *
), kept as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors)
  select id, clock_timestamp(), created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
         12, queue, kind, method, args, meta, tags, options,
         asyncjobs.remember(errors, ($7::text[])[width_bucket(id, $1::bigint[])]::jsonb)
    from cancelled
)
select returned.id, null::text as told, case when lock_key is not null or limited then asyncjobs.let_go(returned.id) end
  from returned, (select count(asyncjobs.wake(queue)) from (select distinct queue from returned) queues) woken
union all
select id, case when awaited then asyncjobs.notify('asyncjobs:finished', id::text) end,
       case when lock_key is not null or limited then asyncjobs.let_go(id) end from cancelled
