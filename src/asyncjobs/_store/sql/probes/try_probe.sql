-- From another session: is the lock of the probe refused, and is what is said heard?
-- $1 integer  the key   $2 text  the channel
-- Nothing is said where the server's queue of notifications is half full (asyncjobs.notify): that passes, and proves nothing.
select pg_backend_pid() as backend, not pg_try_advisory_xact_lock(1634364784, $1::integer) as refused,
       pg_notification_queue_usage() < 0.5 as said, asyncjobs.notify($2::text, '')
