-- Claim no more jobs of this queue, in any process; what runs may finish.
-- $1 text queue
with paused as (
  insert into asyncjobs.queues (name, paused_at) values ($1::text, now())
  on conflict (name) do update set paused_at = coalesce(queues.paused_at, now())
  returning name
)
select asyncjobs.notify('asyncjobs:queues', name) from paused
