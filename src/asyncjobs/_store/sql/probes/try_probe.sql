-- From another session: is the lock of the probe refused, and is what is said heard?
-- $1 integer  the key   $2 text  the channel
select pg_backend_pid() as backend, not pg_try_advisory_xact_lock(1634364784, $1::integer) as refused,
       pg_notify($2::text, '')::text
