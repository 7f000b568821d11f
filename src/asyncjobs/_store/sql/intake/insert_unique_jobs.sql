-- Store new jobs of which some are unique, and leave out those whose key is taken: insert_jobs.sql with a condition.
--
-- $1 text     a JSON array of jobs, as for insert_jobs.sql; `window` in seconds for a key that is taken so long in any case
-- $2 boolean  whether to look for an idle runner
-- Returns what was stored, in the order given except for the keyed ones, which are known by their keys. Of several with one key
-- the first is stored. They go in by the order of their keys, so that two who store the same ones wait for each other only once;
-- their times are microseconds apart, so that they run in the order given all the same.
-- A key that an open transaction has just taken is waited for: only then is it known whether it is taken.
with given as materialized (
  select new.*, row_number() over () as nth
    from jsonb_to_recordset($1::text::jsonb)
      as new (queue text, kind text, method text, args jsonb, priority smallint, max_attempts smallint,
              delay double precision, scheduled_at timestamptz, tags text[], meta jsonb, options jsonb,
              unique_key text, unique_to_start boolean, lock_key text, lock_slots smallint, fair_key text,
              rate_key text, rate_weight integer, rate_capacity integer, rate_per double precision, rate_window smallint,
              "window" double precision)
), first as materialized (
  select *
    from (select given.*, row_number() over (partition by unique_key order by nth) as among from given) counted
   where unique_key is null or among = 1
), taken as (
  insert into asyncjobs.unique_windows as known (unique_key, expires_at)
  select unique_key, statement_timestamp() + "window" * interval '1 s'
    from first
   where "window" is not null
     -- A duplicate locks nothing: others would wait for it.
     and not exists (select from asyncjobs.live_jobs having_it where having_it.unique_key = first.unique_key)
     and not exists (select from asyncjobs.unique_windows open
                      where open.unique_key = first.unique_key and open.job is not null
                        and open.expires_at > statement_timestamp())
   order by unique_key
      on conflict (unique_key) do update
     set expires_at = excluded.expires_at, job = null
   where known.expires_at <= statement_timestamp() or known.job is null
  returning unique_key
), inserted as (
  insert into asyncjobs.live_jobs
         (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options,
          unique_key, unique_to_start, lock_key, lock_slots, fair_key,
          rate_key, rate_weight, rate_capacity, rate_per, rate_window)
  select new.queue, new.kind, new.method, new.args, new.priority, new.max_attempts, statement_timestamp(),
         coalesce(new.scheduled_at, statement_timestamp() + new.delay * interval '1 s', statement_timestamp())
           + (new.nth - 1)::float8 * interval '1 us',
         case when new.scheduled_at > statement_timestamp() or new.delay > 0::float8 then 1
              when new.fair_key is not null then 5 else 0 end,
         new.tags, new.meta, new.options, new.unique_key, new.unique_to_start, new.lock_key, new.lock_slots, new.fair_key,
         new.rate_key, new.rate_weight, new.rate_capacity, new.rate_per, new.rate_window
    from first new
   where new."window" is null or new.unique_key in (select unique_key from taken)
   order by new.unique_key nulls first, new.nth
      on conflict (unique_key) where unique_key is not null do nothing
  returning id, queue, unique_key
)
select inserted.id, inserted.unique_key
  from inserted,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from inserted where $2::boolean) queues) woken
 order by inserted.id
