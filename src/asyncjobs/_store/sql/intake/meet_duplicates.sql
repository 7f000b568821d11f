-- Find the jobs that have these keys, with which others were not stored because of them.
--
-- $1 text[]   keys   $2 boolean whether to keep those that wait from being claimed until this transaction ends
-- $3 text[]   keys of jobs that were to be changed, and do not wait to be (change_duplicates.sql): only one that runs is found
-- $4 text[]   keys that are taken for a while, whatever became of their jobs
-- Returns key and id of those found. What is not found is free again, or was claimed just now: store it.
-- Without $2 a duplicate writes nothing: who commits nothing with it has committed before, so whoever runs the job later sees
-- it. With it, rows are locked, and shared, so that those who only look do not wait for each other; whoever passed by one
-- is woken at the commit, like by a new job. A row that somebody is changing is waited for and looked at again: a runner may
-- claim it. One that runs is not locked, for its runner would have to wait until this transaction is over. One that is unique
-- until it starts and was claimed has not begun as long as it has its key; locked, it is given back by its runner.
with found as materialized (
  select id, unique_key, runner is not null and not unique_to_start as runs
    from asyncjobs.live_jobs
   where unique_key = any ($1::text[]) or unique_key = any ($3::text[])
), kept as materialized (
  select id, unique_key, queue
    from asyncjobs.live_jobs
   where unique_key = any ($1::text[]) and (runner is null or unique_to_start) and $2::boolean
   order by unique_key
     for share
)
select unique_key, id, asyncjobs.wake(queue) as woken from kept
union all
select unique_key, id, null from found where runs or not $2::boolean and unique_key = any ($1::text[])
union all
select unique_key, job, null
  from asyncjobs.unique_windows
 where unique_key = any ($4::text[]) and job is not null and expires_at > statement_timestamp()
   and unique_key not in (select unique_key from found)
