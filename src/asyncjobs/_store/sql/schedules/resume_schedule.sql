-- Let a schedule tick again, from now: what it did not do while it was paused was not missed.
-- $1 text name
with resumed as (
  update asyncjobs.schedules
     set passed_until = case when paused_at is null then passed_until else clock_timestamp() end, paused_at = null
   where name = $1::text
  returning name
)
select name, asyncjobs.notify('asyncjobs:schedules', '') from resumed
