-- Limit a queue, over all processes, or no longer.
-- $1 text queue   $2 integer how many of its jobs may run at a time; null: any number
-- $3 float8 seconds from one token to the next; null: no rate   $4 integer the most tokens there may be
-- $5 smallint the kind of rate: 0 a bucket, 1 a sliding window of $3 * $4 seconds, 2 a fixed one
-- Of another rate nothing is used at first (0008_rates.sql). The queue's row is locked before the rate's, as in let_in.
with before as materialized (
  select every, burst, rate_window from asyncjobs.queues where name = $1::text
), limited as (
  insert into asyncjobs.queues (name, concurrency, every, burst, rate_window)
  values ($1::text, $2::integer, $3::float8, $4::integer, $5::smallint)
  on conflict (name) do update
    set concurrency = excluded.concurrency, every = excluded.every, burst = excluded.burst, rate_window = excluded.rate_window
  returning name, every, burst, rate_window
), forgotten as (
  delete from asyncjobs.rates
   where key in (select 'queue:' || name from limited
                  where not exists (select from before where (before.every, before.burst, before.rate_window)
                                                             is not distinct from ($3::float8, $4::integer, $5::smallint)))
  returning key
), emptied as (
  delete from asyncjobs.rate_payments where key in (select key from forgotten)
)
select asyncjobs.notify('asyncjobs:queues', name) from limited
