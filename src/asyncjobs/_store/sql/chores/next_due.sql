-- How many seconds until the next scheduled or retryable job is due; null when there is none, at most a day.
select greatest(0, least(86400, extract(epoch from scheduled_at - clock_timestamp())))::float8
  from asyncjobs.live_jobs
 where state in (1, 2) and id > 0
 order by scheduled_at limit 1
