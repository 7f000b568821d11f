-- The limits of queues, and how many places are taken, for people.
select name, concurrency, every, burst, rate_window, (select count(*) from asyncjobs.locks where key = 'queue:' || name) as running
  from asyncjobs.queues
 where concurrency is not null or every is not null
 order by name
