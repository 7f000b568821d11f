-- Cancel a job: one that waits is final at once; a runner is asked to stop one that runs.
-- $1 bigint id
-- One that failed because it took runners down is kept until somebody decides: cancelled, it goes like any other.
-- Returns 'cancelled', 'requested', or nothing when the job is final or unknown. Whether anybody runs it is read from the
-- row as it was locked: in the statement's own view a claim that is committing just now has not happened yet.
with target as materialized (
  select id, runner from asyncjobs.live_jobs where id = $1::bigint and id > 0 for update
), gone as (
  delete from asyncjobs.live_jobs
   where id in (select id from target where runner is null)
  returning *
), kept as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors)
  select id, clock_timestamp(), created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
         12, queue, kind, method, args, meta, tags, options, errors
    from gone
), asked as (
  update asyncjobs.live_jobs
     set cancel_requested = true
   where id in (select id from target where runner is not null)
  returning id
), decided as (
  update asyncjobs.finished_jobs set state = 12 where id = $1::bigint and state = 14 returning id
)
select 'cancelled' as answer, case when awaited then asyncjobs.notify('asyncjobs:finished', id::text) end,
       case when lock_key is not null then asyncjobs.let_go(id) end,  -- it may have been handed over to it
       case when state = 6 then asyncjobs.hurry_rate(rate_key)::text end
  from gone
union all
select 'cancelled', null, null, null from decided
union all
select 'requested', asyncjobs.notify('asyncjobs:cancel', id::text), null, null from asked
