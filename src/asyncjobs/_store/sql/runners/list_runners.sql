-- Who runs jobs, for people.
select incarnation, name, version, started_at, seen_at, holds_lock, seen_at + lease < now() as lease_over, info::text
  from asyncjobs.runners
 order by started_at, incarnation
