-- Let go of the lock of a probe.
-- $1 integer  its key
select pg_advisory_unlock(1634364784, $1::integer)
