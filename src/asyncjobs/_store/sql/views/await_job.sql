-- Say that somebody awaits this job, so that finishing it notifies, and look where it stands.
-- $1 bigint id
-- A finish that is under way is waited for: then no live row is left to mark, and the caller looks again (get_job).
update asyncjobs.live_jobs set awaited = true where id = $1::bigint and id > 0 returning id
