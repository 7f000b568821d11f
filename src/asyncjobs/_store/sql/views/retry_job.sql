-- Let a job run now: a finished one again, with all its attempts and free of suspicion; a waiting one before its time.
-- $1 bigint id
-- The token goes on from where it was. Returns the queue, or nothing when the job is running, ready or unknown.
with back as (
  delete from asyncjobs.finished_jobs where id = $1::bigint returning *
), revived as (
  insert into asyncjobs.live_jobs
         (id, scheduled_at, created_at, token, priority, attempt, max_attempts, crashes, state,
          queue, kind, method, args, meta, tags, options, errors)
  overriding system value
  select id, now(), created_at, token, priority, 0, max_attempts, 0, 0, queue, kind, method, args, meta, tags, options, errors
    from back
  returning queue
), hurried as (
  update asyncjobs.live_jobs
     set state = case when crashes > 0 then 4 else 0 end, scheduled_at = now()
   where id = $1::bigint and id > 0 and state in (1, 2)
  returning queue
)
select queue, asyncjobs.wake(queue)::text from (select queue from revived union all select queue from hurried) again
