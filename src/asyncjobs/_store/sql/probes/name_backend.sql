-- Which backend answers; and is it one that may be written to?
select pg_backend_pid() as backend,
       pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as is_read_only
