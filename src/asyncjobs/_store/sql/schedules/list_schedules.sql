-- Every schedule, and what time it is.
-- The time is asked for with the rows: when the next tick is due is reckoned from it, never from a clock of this machine.
select name, owner, cron, timezone, every, job::text, missed, missed_within, overlap, jitter, passed_until, last_tick, last_job,
       created_at, paused_at, clock_timestamp() as now
  from asyncjobs.schedules
 order by name
