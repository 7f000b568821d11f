-- Say that this runner is busy on these queues: enqueuing need not wake it.
-- $1 text[] queues
select count(pg_advisory_unlock_shared(1634364777, hashtext('asyncjobs:' || queue))) from unnest($1::text[]) queue
