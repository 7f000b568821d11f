-- Let many jobs run now, a chunk at a time: final ones again, waiting ones before their time (see retry_job).
-- $1 text[] states   $2 text[] queues   $3 text[] kinds, by any ending, of any version   $4 text[] tags, all of which they have;
-- null for all   $5 bigint only ids above   $6 integer look at so many
-- One that took runners down is left to whoever decides of it alone. Of those that share a unique key, the newest has it again.
-- Returns how many were looked at, the highest id of them, and how many run again.
with chosen as materialized (
  select id
    from asyncjobs.jobs
   where id > $5::bigint and state = any ($1::text[])
     and ($2::text[] is null or queue = any ($2::text[]))
     and ($3::text[] is null
          or exists (select from unnest($3::text[]) wanted (ending), regexp_replace(kind, '@[0-9]+$', '') as plain
                      where ending in (kind, plain) or right(plain, length(ending) + 1) in (':' || ending, '.' || ending)))
     and ($4::text[] is null or tags @> $4::text[])
   order by id limit $6::integer
), ended as materialized (
  select id from asyncjobs.finished_jobs
   where id = any (array(select id from chosen)) and state <> 14
     and options ->> 'args' is distinct from 'not kept'  -- without its inputs it could only fail
   order by id for update
), waiting as materialized (
  select id from asyncjobs.live_jobs
   where id = any (array(select id from chosen)) and id > 0
     and state in (1, 2) and case state when 1 then 'scheduled' else 'retryable' end = any ($1::text[])
   order by id for update
), back as (
  delete from asyncjobs.finished_jobs where id = any (array(select id from ended)) returning *
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
         case when newest and not exists (select from asyncjobs.live_jobs taken where taken.unique_key = back.options #>> '{unique,key}'::text[])
              then options #>> '{unique,key}'::text[] end,
         (options #>> '{unique,to_start}'::text[])::boolean, options ->> 'fair'::text,
         options #>> '{rate,key}'::text[], (options #>> '{rate,weight}'::text[])::integer,
         (options #>> '{rate,capacity}'::text[])::integer, (options #>> '{rate,per}'::text[])::float8,
         (options #>> '{rate,window}'::text[])::smallint
    from (select *, row_number() over (partition by options #>> '{unique,key}'::text[] order by id desc) = 1 as newest from back) back
  returning queue
), hurried as (
  update asyncjobs.live_jobs
     set state = case when crashes > 0 then 4 when fair_key is not null then 5 else 0 end, scheduled_at = now()
   where id = any (array(select id from waiting)) and state in (1, 2)
  returning queue
), again as (
  select queue, count(*) as jobs from (select queue from revived union all select queue from hurried) each group by queue
)
select (select count(*) from chosen) as seen, (select max(id) from chosen) as highest, coalesce(sum(jobs), 0)::bigint as again,
       count(asyncjobs.wake(queue))
  from again
