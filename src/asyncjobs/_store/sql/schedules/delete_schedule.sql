-- Forget a schedule that was created at run time; its jobs stay.
-- $1 text name
delete from asyncjobs.schedules where name = $1::text and owner is null returning name
