-- Limit a queue, over all processes, or no longer.
-- $1 text queue   $2 integer how many of its jobs may run at a time; null: any number
-- $3 float8 seconds from one token to the next; null: no rate   $4 integer the most tokens there may be
with limited as (
  insert into asyncjobs.queues (name, concurrency, every, burst)
  values ($1::text, $2::integer, $3::float8, $4::integer)
  on conflict (name) do update
    set concurrency = excluded.concurrency, every = excluded.every, burst = excluded.burst,
        next_at = case when queues.every = excluded.every then queues.next_at end
  returning name
)
select asyncjobs.notify('asyncjobs:queues', name) from limited
