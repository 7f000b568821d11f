-- Let a job run now: a finished one again, with all its attempts and free of suspicion; a waiting one before its time.
-- $1 bigint id
-- $2 boolean a completed one, too
-- The token goes on from where it was. Its unique key it has again if nobody else has it; one who takes it in this moment makes the
-- statement fail, and it is asked again. Returns the queue, or nothing when the job is running, ready or unknown.
with back as (
  delete from asyncjobs.finished_jobs
   where id = $1::bigint and options ->> 'args' is distinct from 'not kept'  -- without its inputs it could only fail
     and ($2::boolean or state <> 10)
  returning *
), revived as (
  insert into asyncjobs.live_jobs
         (id, scheduled_at, created_at, token, priority, attempt, max_attempts, crashes, state,
          queue, kind, method, args, meta, tags, options, errors, lock_key, lock_slots,
          unique_key, unique_to_start, fair_key,
          rate_key, rate_weight, rate_capacity, rate_per, rate_window)
  overriding system value
  select id, now(), created_at, token, priority, 0, max_attempts, 0,
         case when options ->> 'fair'::text is not null then 5 else 0 end, queue, kind, method, args, meta, tags, options, errors,
         options #>> '{lock,key}'::text[], (options #>> '{lock,slots}'::text[])::smallint,
         case when not exists (select from asyncjobs.live_jobs taken where taken.unique_key = back.options #>> '{unique,key}'::text[])
              then options #>> '{unique,key}'::text[] end,
         (options #>> '{unique,to_start}'::text[])::boolean, options ->> 'fair'::text,
         options #>> '{rate,key}'::text[], (options #>> '{rate,weight}'::text[])::integer,
         (options #>> '{rate,capacity}'::text[])::integer, (options #>> '{rate,per}'::text[])::float8,
         (options #>> '{rate,window}'::text[])::smallint
    from back
  returning queue
), hurried as (
  update asyncjobs.live_jobs
     set state = case when crashes > 0 then 4 when fair_key is not null then 5 else 0 end, scheduled_at = now()
   where id = $1::bigint and id > 0 and state in (1, 2)
  returning queue
)
select queue, asyncjobs.wake(queue)::text from (select queue from revived union all select queue from hurried) again
