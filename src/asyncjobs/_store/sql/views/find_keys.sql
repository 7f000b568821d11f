-- What a job is known by among others, and who is in its way: for people.
-- $1 bigint id
-- Of one that is final the keys are those it had. A unique key is let go when it starts, or ends.
with asked as (
  select id, queue, state, priority, scheduled_at, options, lock_key, lock_slots, fair_key, unique_key is not null as has_unique
    from asyncjobs.live_jobs
   where id = $1::bigint and id > 0
  union all
  select id, queue, state, priority, scheduled_at, options,
         options #>> '{lock,key}'::text[], (options #>> '{lock,slots}'::text[])::smallint, options ->> 'fair'::text, false
    from asyncjobs.finished_jobs
   where id = $1::bigint
)
select options #>> '{unique,key}'::text[] as unique_key, has_unique, lock_key, lock_slots, fair_key,
       array(select job from asyncjobs.locks where key = asked.lock_key order by slot) as holders,
       case when state = 3 then (
         select count(*) from asyncjobs.live_jobs waiting
          where waiting.state = 3 and waiting.lock_key = asked.lock_key
            and (waiting.priority, waiting.scheduled_at, waiting.id) < (asked.priority, asked.scheduled_at, asked.id))
       end as ahead
  from asked
