-- Every claim of some incarnations. Reads every job that is ready or running.
-- $1 bigint[]  the incarnations
select runner, id, token
  from asyncjobs.live_jobs
 where state = 0 and runner = any ($1::bigint[]) and id > 0
