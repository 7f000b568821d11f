-- Store new jobs, in the order given, in the caller's transaction, and wake an idle runner when it commits.
--
-- $1 text     a JSON array of jobs. One text parameter means the same on every driver, and needs no codec of the caller's.
-- $2 boolean  whether to look for an idle runner; false when the caller wakes its own
-- Returns the ids. The wake-up looks for idle runners after the rows have their transaction id, so that a runner that
-- announces itself idle in between can see this transaction is still open (see find_horizon.sql).
with inserted as (
  insert into asyncjobs.live_jobs
         (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options,
          unique_key, unique_to_start, lock_key, lock_slots, fair_key,
          rate_key, rate_weight, rate_capacity, rate_per, rate_window)
  select new.queue, new.kind, new.method, new.args, new.priority, new.max_attempts, statement_timestamp(),
         coalesce(new.scheduled_at, statement_timestamp() + new.delay * interval '1 s', statement_timestamp()),
         case when new.scheduled_at > statement_timestamp() or new.delay > 0::float8 then 1
              when new.fair_key is not null then 5 else 0 end,
         new.tags, new.meta, new.options, new.unique_key, new.unique_to_start, new.lock_key, new.lock_slots, new.fair_key,
         new.rate_key, new.rate_weight, new.rate_capacity, new.rate_per, new.rate_window
    from jsonb_to_recordset($1::text::jsonb)
      as new (queue text, kind text, method text, args jsonb, priority smallint, max_attempts smallint,
              delay double precision, scheduled_at timestamptz, tags text[], meta jsonb, options jsonb,
              unique_key text, unique_to_start boolean, lock_key text, lock_slots smallint, fair_key text,
              rate_key text, rate_weight integer, rate_capacity integer, rate_per double precision, rate_window smallint)
  returning id, queue
)
select inserted.id
  from inserted,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from inserted where $2::boolean) queues) woken
 order by inserted.id
