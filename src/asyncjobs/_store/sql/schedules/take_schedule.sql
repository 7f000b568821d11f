-- Take a schedule to deal with what is due of it, unless somebody else does or it is paused: its row is locked until the end of
-- the transaction, in which the jobs are stored and `advance_schedule` says so.
-- $1 text name
-- Also which of its jobs are live still. Nobody waits here: who has the row stores the jobs, or fails, and then others look again.
select name, owner, cron, timezone, every, job::text, missed, missed_within, overlap, jitter, passed_until, last_tick, last_job,
       created_at, paused_at, clock_timestamp() as now,
       array(select id from asyncjobs.live_jobs where id = any (schedules.unfinished)) as unfinished
  from asyncjobs.schedules
 where name = $1::text and paused_at is null
   for update of schedules skip locked
