-- How many jobs are suspected of killing runners: that wait to run alone, and that failed and wait for somebody to decide.
select (select count(*) from asyncjobs.live_jobs where state = 4) as waiting,
       (select count(*) from asyncjobs.finished_jobs where state = 14) as failed
