-- Say that this runner is idle on these queues ('' means every queue), so that enqueuing wakes it (asyncjobs.wake).
-- Any number of runners share the lock. Refused for an instant while an enqueuer probes: try again.
-- $1 text[] queues. Returns the queues it was refused for, and a transaction id of its own for find_horizon.sql.
select array(select queue from unnest($1::text[]) queue
              where not pg_try_advisory_lock_shared(1634364777, hashtext('asyncjobs:' || queue))) as refused,
       pg_current_xact_id()::text::bigint as own_xid
