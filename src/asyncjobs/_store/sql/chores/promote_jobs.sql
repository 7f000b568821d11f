-- Make due jobs available, suspects to run alone (claim_suspect.sql), those with a fair key in line (deal_turns.sql), and wake an
-- idle runner for them.
-- $1 integer  at most so many. Returns the lanes they went to.
-- The outer update repeats no index predicate: with one, a stale plan walks live_jobs_due instead of the ctids.
with promoted as (
  update asyncjobs.live_jobs
     set state = case when crashes > 0 then 4 when fair_key is not null then 5 else 0 end
   where ctid = any (array(
           select ctid
             from asyncjobs.live_jobs
            where state in (1, 2) and scheduled_at <= now()
            order by scheduled_at limit $1::integer
              for update skip locked))
  returning queue, kind
)
select lanes.queue, lanes.kind, lanes.jobs
  from (select queue, kind, count(*) as jobs from promoted group by queue, kind) lanes,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from promoted) queues) woken
