-- Let jobs that were just claimed from limited queues run, as many as may (0003_locks.sql). The others go back.
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation
-- Durable for the reason of acquire_locks.sql.
select id, set_config('synchronous_commit', 'on', true)
  from asyncjobs.admit_jobs($1::bigint[], $2::bigint[], $3::bigint) as admitted (id)
