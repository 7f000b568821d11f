-- Let claimed jobs begin that have a rate, as far as they can pay, and their queues have room (0008_rates.sql). The others wait in
-- line, or go back.
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation
-- $4 integer  how many may begin now; of the others it is found out who waits
-- The last row has no job, and says in how many seconds one that waits for one of their rates is due.
-- Durable for the reason of acquire_locks.sql: what a crash of the server forgot would have begun, and not been paid.
select job_id, verdict, seconds, set_config('synchronous_commit', 'on', true)
  from asyncjobs.let_in($1::bigint[], $2::bigint[], $3::bigint, $4::integer)
