-- Every lane (queue, kind) in which a job is ready now, without reading the jobs: one step of the index per lane.
-- Ballast sorts below ' ', where no queue's name is.
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
select queue, kind from lanes
