-- Claim jobs of this queue again.
-- $1 text queue
-- Returns its name, or nothing where it was not paused.
with resumed as (
  update asyncjobs.queues set paused_at = null where name = $1::text and paused_at is not null returning name
)
select name, asyncjobs.notify('asyncjobs:queues', name)::text from resumed
