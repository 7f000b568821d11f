-- Let go of the lock that proves an incarnation alive, which has been succeeded.
-- $1 integer the lock key
select pg_advisory_unlock(1634364780, $1::integer)
