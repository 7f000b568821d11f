-- By queue: the jobs that have been due for so long and that nobody runs, and how long the oldest of them has.
-- $1 float8 seconds
-- One that waits for another's lock (blocked) is not late while a runner lives that runs the other: it has its turn then. Where none
-- does, nobody is there to take the lock away, either, nor to take back what was claimed; so both are late.
-- One that waits for its rate is late where no runner lives. What waits for somebody's decision is not late. Ballast is due after 2200.
with late as (
  select queue, scheduled_at, state, runner, lock_key
    from asyncjobs.live_jobs
   where id > 0 and scheduled_at < clock_timestamp() - $1::float8 * interval '1 s'
     and (runner is null or not exists (
       select from asyncjobs.runners where incarnation = live_jobs.runner and seen_at + lease > clock_timestamp()))
), waited_for as materialized (
  select lock_key,
         exists (select from asyncjobs.locks
                   join asyncjobs.live_jobs holder on holder.id = locks.job
                   join asyncjobs.runners on runners.incarnation = holder.runner
                  where locks.key = keys.lock_key and runners.seen_at + runners.lease > clock_timestamp()) as is_run
    from (select distinct lock_key from late where state = 3) keys
)
select queue, count(*), extract(epoch from clock_timestamp() - min(scheduled_at))::float8 as oldest,
       queue in (select name from asyncjobs.queues where paused_at is not null) as paused
  from late
 where case state when 3 then lock_key in (select lock_key from waited_for where not is_run)
                  when 6 then not exists (select from asyncjobs.runners where seen_at + lease > clock_timestamp())
                  else true end
 group by queue
 order by queue
