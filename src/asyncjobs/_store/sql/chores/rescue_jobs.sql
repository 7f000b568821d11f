-- Take back every job a dead incarnation held, and forget the incarnation.
--
-- $1 bigint   the incarnation   $2 integer  crashes after which a job is failed   $3 text  the error to remember, JSON
-- $4 boolean  whether a crash is to blame; false when its process lives on under another incarnation
-- A job it had begun gets a crash on its record, and after $2 of them it is failed: it may be what kills runners.
-- A job it had only prefetched is innocent. Both get the attempt back. Tokens stay, so the dead one's writes, should it
-- come to life again, are refused. Locks are taken in id order, the order everybody takes them in.
with dead as (
  select $1::bigint as incarnation,
         coalesce((select begun from asyncjobs.runners where incarnation = $1::bigint), '{}') as begun
), held as materialized (
  select live_jobs.id, $4::boolean and (live_jobs.started_at is not null or live_jobs.id = any (dead.begun)) as begun
    from asyncjobs.live_jobs, dead
   where live_jobs.state = 0 and live_jobs.runner = dead.incarnation
   order by live_jobs.id
     for update of live_jobs
), back as (
  update asyncjobs.live_jobs
     set runner = null, started_at = null, attempt = attempt - 1,
         crashes = crashes + case when held.begun then 1 else 0 end,
         errors = case when held.begun then asyncjobs.remember(errors, jsonb_build_object('attempt', attempt) || $3::text::jsonb)
                       else errors end
    from held
   where live_jobs.id = held.id and not (held.begun and live_jobs.crashes + 1 >= $2::integer)
  returning live_jobs.id, live_jobs.queue
), killers as (
  delete from asyncjobs.live_jobs
   using held
   where live_jobs.id = held.id and held.begun and live_jobs.crashes + 1 >= $2::integer
  returning live_jobs.*
), failed as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors)
  select id, clock_timestamp(), created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts,
         crashes + 1, 13, queue, kind, method, args, meta, tags, options,
         asyncjobs.remember(errors, jsonb_build_object('attempt', attempt) || $3::text::jsonb)
    from killers
  returning id
), forgotten as (
  delete from asyncjobs.runners where incarnation in (select incarnation from dead)
)
select (select count(*) from back) as rescued,
       (select count(*) from failed) as failed,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from back) queues) as woken,
       (select count(pg_notify('asyncjobs:finished', id::text)) from killers where awaited) as told
