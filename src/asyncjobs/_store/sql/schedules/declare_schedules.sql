-- Make the schedules an application declares in its code those the database has of it: new ones begin now, changed ones change,
-- others of this application are dropped. One that was created at run time under such a name is declared from now on.
-- $1 text a JSON array of schedules  $2 text the application
-- What has not changed is not written. Whose times change begins anew: no tick of the new times was missed. Names of other
-- applications are left alone. Returns what became of which.
with given as materialized (
  select new.*
    from jsonb_to_recordset($1::text::jsonb)
      as new (name text, cron text, timezone text, every double precision, job jsonb, missed text,
              missed_within double precision, overlap text, jitter double precision)
), dropped as (
  delete from asyncjobs.schedules
   where owner = $2::text and not exists (select from given where given.name = schedules.name)
  returning name
), declared as (
  insert into asyncjobs.schedules as known
         (name, owner, cron, timezone, every, job, missed, missed_within, overlap, jitter, passed_until)
  select name, $2::text, cron, timezone, every, job, missed, missed_within, overlap, jitter, clock_timestamp()
    from given
   order by name
  on conflict (name) do update
     set owner = excluded.owner, cron = excluded.cron, timezone = excluded.timezone, every = excluded.every, job = excluded.job,
         missed = excluded.missed, missed_within = excluded.missed_within, overlap = excluded.overlap, jitter = excluded.jitter,
         passed_until = case when known.cron is not distinct from excluded.cron and known.timezone = excluded.timezone
                                  and known.every is not distinct from excluded.every
                             then known.passed_until else excluded.passed_until end
   where (known.owner is null or known.owner = $2::text)
     and (known.owner is null or known.cron is distinct from excluded.cron or known.timezone <> excluded.timezone
          or known.every is distinct from excluded.every or known.job <> excluded.job or known.missed <> excluded.missed
          or known.missed_within is distinct from excluded.missed_within or known.overlap <> excluded.overlap
          or known.jitter <> excluded.jitter)
  returning name
), outcomes as (
  select name, 'dropped' as outcome from dropped
  union all
  select name, 'declared' from declared
  union all
  select name, 'of ' || owner from asyncjobs.schedules where owner <> $2::text and name in (select name from given)
)
select name, outcome, asyncjobs.notify('asyncjobs:schedules', '') from outcomes
