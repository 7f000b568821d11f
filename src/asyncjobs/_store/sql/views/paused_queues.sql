-- The queues nobody may claim from now.
select name from asyncjobs.queues where paused_at is not null
