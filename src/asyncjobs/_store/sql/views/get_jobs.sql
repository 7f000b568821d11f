-- Jobs, live or finished.
-- $1 bigint[] ids
select id, kind, method, queue, state, priority, attempt, max_attempts, crashes, args::text, meta::text, tags,
       created_at, scheduled_at, started_at, finished_at, runner, result::text, result_error, errors::text
  from asyncjobs.jobs
 where id = any ($1::bigint[])
