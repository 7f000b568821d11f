-- For people: how many jobs wait for each lock, and of which kind the first of them is, by name.
select lock_key, count(*) as jobs, min(kind) as kind
  from asyncjobs.live_jobs
 where state = 3 and id > 0
 group by lock_key
