-- Let a schedule tick no more, in any process.
-- $1 text name
update asyncjobs.schedules set paused_at = coalesce(paused_at, clock_timestamp()) where name = $1::text returning name
