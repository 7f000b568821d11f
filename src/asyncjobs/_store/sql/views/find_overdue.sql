-- By queue: the jobs nobody has claimed though they have been due for so long, and how long the oldest of them has.
-- $1 float8 seconds
-- Those that wait for another job (blocked) or for somebody's decision are not late. Ballast is due after 2200.
select queue, count(*), extract(epoch from clock_timestamp() - min(scheduled_at))::float8 as oldest,
       queue in (select name from asyncjobs.queues where paused_at is not null) as paused
  from asyncjobs.live_jobs
 where runner is null and state in (0, 1, 2, 4, 5) and id > 0
   and scheduled_at < clock_timestamp() - $1::float8 * interval '1 s'
 group by queue
 order by queue
