-- One schedule, and what time it is.
-- $1 text name
select name, owner, cron, timezone, every, job::text, missed, missed_within, overlap, jitter, passed_until, last_tick, last_job,
       created_at, paused_at, clock_timestamp() as now
  from asyncjobs.schedules
 where name = $1::text
