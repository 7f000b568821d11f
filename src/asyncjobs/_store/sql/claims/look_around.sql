-- What a claimer must know that no claim tells: where jobs are ready, when the next one is due, which queues are paused.
--
-- Lanes (queue, kind) are found without reading the jobs, one step of the index per lane. Ballast sorts below ' ', where no
-- queue's name is. `due` is in seconds, null when nothing is scheduled.
with recursive lanes as (
  (select queue, kind
     from asyncjobs.live_jobs
    where state = 0 and runner is null and queue >= ' '
    order by queue, kind limit 1)
  union all
  select following.queue, following.kind
    from lanes
   cross join lateral (
     select queue, kind
       from asyncjobs.live_jobs
      where state = 0 and runner is null and (queue, kind) > (lanes.queue, lanes.kind)
      order by queue, kind limit 1) following
)
select array(select queue from lanes order by queue, kind) as queues,
       array(select kind from lanes order by queue, kind) as kinds,
       (select extract(epoch from scheduled_at - clock_timestamp())::float8
          from asyncjobs.live_jobs
         where state in (1, 2)
         order by scheduled_at limit 1) as due,
       array(select name from asyncjobs.queues where paused_at is not null) as paused
