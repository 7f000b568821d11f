-- Claim jobs of this queue again.
-- $1 text queue
with resumed as (
  update asyncjobs.queues set paused_at = null where name = $1::text returning name
)
select asyncjobs.notify('asyncjobs:queues', name) from resumed
