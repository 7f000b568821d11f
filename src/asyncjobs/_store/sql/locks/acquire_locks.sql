-- Take the locks of jobs that were just claimed, or let them wait for them (0003_locks.sql).
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation   $4 bigint[] those that have yet to be let in
-- The commit is durable, whatever the session says: a lock that a crash of the server forgot would let two jobs run that
-- must not, where the claim was kept.
select job_id, verdict, set_config('synchronous_commit', 'on', true)
  from asyncjobs.acquire_locks($1::bigint[], $2::bigint[], $3::bigint, $4::bigint[])
