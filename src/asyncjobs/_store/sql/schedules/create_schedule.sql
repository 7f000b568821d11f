-- Create a schedule at run time, or with $2 replace one that was created so. It begins now.
-- $1 text a schedule, JSON  $2 boolean
-- Returns its name; nothing when the name is taken, or declared in code.
with given as materialized (
  select new.*
    from jsonb_to_record($1::text::jsonb)
      as new (name text, cron text, timezone text, every double precision, job jsonb, missed text,
              missed_within double precision, overlap text, jitter double precision)
), created as (
  insert into asyncjobs.schedules as known
         (name, cron, timezone, every, job, missed, missed_within, overlap, jitter, passed_until)
  select name, cron, timezone, every, job, missed, missed_within, overlap, jitter, clock_timestamp() from given
  on conflict (name) do update
     set cron = excluded.cron, timezone = excluded.timezone, every = excluded.every, job = excluded.job,
         missed = excluded.missed, missed_within = excluded.missed_within, overlap = excluded.overlap, jitter = excluded.jitter,
         passed_until = case when known.cron is not distinct from excluded.cron and known.timezone = excluded.timezone
                                  and known.every is not distinct from excluded.every
                             then known.passed_until else excluded.passed_until end
   where $2::boolean and known.owner is null
  returning name
)
select name, asyncjobs.notify('asyncjobs:schedules', '') from created
