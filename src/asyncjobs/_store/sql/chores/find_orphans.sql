-- Incarnations that hold jobs and are on no list: what a claim left that raced with its incarnation's end.
select distinct runner
  from asyncjobs.live_jobs
 where state = 0 and runner is not null and id > 0
   and not exists (select from asyncjobs.runners where incarnation = live_jobs.runner)
