-- What a claimer must know that no claim tells: where jobs are ready, when the next one is due, which queues are paused,
-- whether a suspect waits to run alone (claim_suspect.sql), whether any queue is limited (find_limits.sql), and whether
-- anything is in line (deal_turns.sql), and in how many seconds somebody who waits for a rate is due (promote_rates.sql).
--
-- Lanes (queue, kind) are found without reading the jobs, one step of the index per lane. Ballast sorts below ' ', where no
-- queue's name is, and is due after 2200. `due` is in seconds, null when nothing is scheduled.
-- `coalesce(runner, 0) < 1` says `runner is null` (no incarnation is below 1), but a table without statistics is believed to
-- hold none of the one and a third of the other: with `is null`, a fresh database sorted all its jobs for every lane.
with recursive lanes as (
  (select queue, kind
     from asyncjobs.live_jobs
    where state = 0 and coalesce(runner, 0) < 1 and queue >= ' '
    order by queue, kind limit 1)
  union all
  select following.queue, following.kind
    from lanes
   cross join lateral (
     select queue, kind
       from asyncjobs.live_jobs
      where state = 0 and coalesce(runner, 0) < 1 and (queue, kind) > (lanes.queue, lanes.kind)
      order by queue, kind limit 1) following
)
select array(select queue from lanes order by queue, kind) as queues,
       array(select kind from lanes order by queue, kind) as kinds,
       (select extract(epoch from scheduled_at - clock_timestamp())::float8
          from asyncjobs.live_jobs
         where state in (1, 2) and scheduled_at < timestamptz '2200-01-01'
         order by scheduled_at limit 1) as due,
       array(select name from asyncjobs.queues where paused_at is not null) as paused,
       exists (select from asyncjobs.live_jobs where state = 4) as suspects,
       exists (select from asyncjobs.queues where concurrency is not null or every is not null) as limited,
       (select true from asyncjobs.live_jobs where state = 5 order by queue, kind limit 1) is true as in_line,
       (select extract(epoch from due_at - clock_timestamp())::float8
          from asyncjobs.rates where due_at is not null order by due_at limit 1) as rate_due
