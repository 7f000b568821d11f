-- What a job waits for that is in the line of a rate (0008_rates.sql).
-- $1 bigint id
-- Returns what it weighs, the rate, the tokens left of it, how many jobs are before it, and when the first of the line is due.
select live.rate_weight, used.capacity, used.seconds, used."window", used.tokens_left,
       (select count(*) from asyncjobs.live_jobs earlier
         where earlier.state = 6 and earlier.rate_key = live.rate_key
           and (earlier.priority, earlier.scheduled_at, earlier.id) < (live.priority, live.scheduled_at, live.id)) as before_it,
       extract(epoch from used.due_at - clock_timestamp())::float8 as due
  from asyncjobs.live_jobs live
  join asyncjobs.rate_limits used on used.key = live.rate_key
 where live.id = $1::bigint and live.state = 6
