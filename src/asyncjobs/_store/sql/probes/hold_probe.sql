-- Hold a lock that another session is to be refused, and say who and what answers.
-- $1 integer  a random key
select pg_backend_pid() as backend, pg_try_advisory_lock(1634364784, $1::integer) as held,
       pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as is_read_only
