-- Hold the lock that proves this process alive: the kernel closes the session when the process dies, and the server lets go.
-- $1 integer the lock key. False when somebody else has it.
select pg_try_advisory_lock(1634364780, $1::integer)
