-- Change the jobs that wait and have the keys of these, which were not stored because of them.
--
-- $1 text     a JSON array of jobs, as for insert_jobs.sql; `replace` and `reschedule` say what to change. Of several with one
--             key the last one counts
-- Returns key and id of those changed. They are locked until the transaction ends, and whoever passed by them is woken then.
-- What is not returned runs, is free again, or was claimed just now (meet_duplicates.sql).
-- One that is unique until it starts and was claimed has not begun as long as it has its key: it still waits for its lock. It is
-- taken back from its runner. One whose inputs are replaced lets go of the lock that was handed to it for the old ones
-- (0003_locks.sql), and so does one that is put off; sorted, so that all are changed before somebody is next.
with given as materialized (
  select distinct on (new.unique_key) new.*   -- the last one said wins
    from rows from (jsonb_to_recordset($1::text::jsonb)
      as (queue text, kind text, method text, args jsonb, priority smallint, max_attempts smallint,
              delay double precision, scheduled_at timestamptz, tags text[], meta jsonb, options jsonb,
              unique_key text, unique_to_start boolean, lock_key text, lock_slots smallint, fair_key text,
              rate_key text, rate_weight integer, rate_capacity integer, rate_per double precision, rate_window smallint,
              "window" double precision, replace boolean, reschedule boolean)) with ordinality
      as new (queue, kind, method, args, priority, max_attempts, delay, scheduled_at, tags, meta, options,
              unique_key, unique_to_start, lock_key, lock_slots, fair_key,
              rate_key, rate_weight, rate_capacity, rate_per, rate_window, "window", replace, reschedule, nth)
   order by new.unique_key, new.nth desc
), held as materialized (
  select id, lock_key
    from asyncjobs.live_jobs
   where unique_key = any (array(select unique_key from given))
     and (runner is null or unique_to_start)
   order by unique_key
     for update
), timed as materialized (
  select given.*, coalesce(scheduled_at, statement_timestamp() + delay * interval '1 s', statement_timestamp()) as due,
         scheduled_at > statement_timestamp() or delay > 0::float8 as later
    from given
), changed as (
  update asyncjobs.live_jobs live
     set kind = case when replace then timed.kind else live.kind end,
         method = case when replace then timed.method else live.method end,
         args = case when replace then timed.args else live.args end,
         meta = case when replace then timed.meta else live.meta end,
         tags = case when replace then timed.tags else live.tags end,
         options = case when replace then timed.options else live.options end,
         lock_key = case when replace then timed.lock_key else live.lock_key end,
         lock_slots = case when replace then timed.lock_slots else live.lock_slots end,
         fair_key = case when replace then timed.fair_key else live.fair_key end,
         rate_key = case when replace then timed.rate_key else live.rate_key end,
         rate_weight = case when replace then timed.rate_weight else live.rate_weight end,
         rate_capacity = case when replace then timed.rate_capacity else live.rate_capacity end,
         rate_per = case when replace then timed.rate_per else live.rate_per end,
         rate_window = case when replace then timed.rate_window else live.rate_window end,
         promoted_at = case when replace then null else live.promoted_at end,
         paid_at = case when replace then null else live.paid_at end,
         scheduled_at = case when reschedule then timed.due else live.scheduled_at end,
         state = case when reschedule and timed.later then 1
                      when reschedule and live.state in (1, 2) or replace and live.state in (3, 5, 6)
                      then case when live.crashes > 0 then 4
                                when case when replace then timed.fair_key else live.fair_key end is not null then 5 else 0 end
                      when live.crashes > 0 and live.state = 0 then 4
                      else live.state end,
         runner = null, started_at = null, attempt = live.attempt - case when live.runner is null then 0 else 1 end
    from timed
   where live.id = any (array(select id from held)) and live.unique_key = timed.unique_key
  returning live.id, live.unique_key, live.queue, live.lock_key, live.state
)
select changed.unique_key, changed.id, asyncjobs.wake(changed.queue),
       case when held.lock_key <> coalesce(changed.lock_key, '') or held.lock_key is not null and changed.state = 1
            then asyncjobs.let_go(changed.id) end
  from (select * from changed order by id) changed join held using (id)
