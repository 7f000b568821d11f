-- What a crash, a race or a stranger's statement left: a lock nobody holds, and a job that waits for a slot that is free.
-- $1 float8  seconds in which a job that a lock was handed to must have been claimed; else the next in turn gets it
-- $2 float8  the same, where its queue has been paused or is full, so that nobody can claim it, and somebody waits who can run
-- One runner at a time looks. Who claims such a job meanwhile has its row, and is passed by.
with alone as materialized (
  select pg_try_advisory_xact_lock(1634364785, hashtext('asyncjobs:locks')) as mine
), forgotten as materialized (
  select job
    from asyncjobs.locks
   where (select id from asyncjobs.live_jobs where id = job) is null  -- by its index, where a join might read all jobs
     and (select mine from alone)
), closed as materialized (
  select asyncjobs.closed_queues(0) as queues
), late as materialized (
  select id
    from asyncjobs.live_jobs
   where id = any (array(select job from asyncjobs.locks
                          where since < clock_timestamp() - case when (select pg_catalog.cardinality(queues) from closed) = 0 then $1::float8
                                                                 else $2::float8 end * interval '1 s'))
     and runner is null and (select mine from alone)
     and (queue = any ((select queues from closed)::text[])
          and exists (select from asyncjobs.live_jobs waiting
                       where waiting.state = 3 and waiting.lock_key = live_jobs.lock_key
                         and waiting.queue <> all ((select queues from closed)::text[]))
          or id = any (array(select job from asyncjobs.locks where since < clock_timestamp() - $1::float8 * interval '1 s')))
   order by id
     for update skip locked
), freed as materialized (
  select sum(asyncjobs.let_go(job)) as locks from (select job from forgotten union select id from late) holders
)
select coalesce((select locks from freed), 0)::bigint as freed,
       case when (select mine from alone) then asyncjobs.settle_locks(null) else 0 end as handed
