-- Make those waiting jobs available that are due next: promote_jobs.sql for a test, in whose one transaction `now()` stands still.
-- $1 text[] queues, null for all   $2 timestamptz due by then; null: by now
-- Only those of one moment, so that what is due in an hour runs before what is due tomorrow, whatever their priorities.
-- Returns how many.
with waiting as materialized (
  select id, scheduled_at
    from asyncjobs.live_jobs
   where state in (1, 2) and id > 0 and scheduled_at <= coalesce($2::timestamptz, clock_timestamp())
     and ($1::text[] is null or queue = any ($1::text[]))
), moved as (
  update asyncjobs.live_jobs
     set state = case when crashes > 0 then 4 when fair_key is not null then 5 else 0 end
   where id = any (array(
           select id from waiting
            where scheduled_at <= greatest((select min(scheduled_at) from waiting), clock_timestamp())))
     and state in (1, 2)
  returning id
)
select count(*) from moved
