-- Put back the planner's ballast: permanent rows nobody can claim, promote or see.
--
-- They keep the statistics of a drained table far from "one row", so that no plan, fresh or cached, can mistake it for a
-- tiny one and scan the whole table once 100,000 jobs have arrived. Queue and kind names are distinct because with one
-- name the planner thinks a queue is the whole table. They begin with a control character, which no queue's name holds,
-- so they sort before every real lane. Half of the ready ones look claimed; none is ever due.
insert into asyncjobs.live_jobs (id, queue, kind, args, scheduled_at, priority, runner, state)
overriding system value
select -n, chr(1) || n::text, chr(1) || n::text, '{}', timestamptz '2200-01-01' + n::float8 * interval '1 s', n % 7,
       case when n <= 1000 and n % 2 = 0 then -n end,
       case when n <= 1000 then 0 when n <= 1200 then 1 else 3 end
  from generate_series(1, 1400) n
on conflict (id) do nothing
returning id
