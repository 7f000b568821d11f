-- Move jobs that reached a final state to the finished ones. Refused for jobs this incarnation no longer holds.
--
-- $1 bigint[]   ids, sorted: the fence finds a job's token by binary search, with no join whose plan could flip
-- $2 bigint[]   the token each was claimed with
-- $3 bigint     the incarnation
-- $4 smallint[] final states   $5 bigint[] microseconds the attempt took
-- $6 text[]     results, JSON  $7 text[]   why a result could not be stored   $8 text[] errors, JSON
-- $9 smallint[] what is kept: 0 nothing, 1 the row without its inputs, else the row
-- Arrays of numbers come as text, parsed once: a driver looks longer at each element than the server reads it.
-- An attempt that paid for a rate began when it paid (0008_rates.sql).
-- Returns the ids it was allowed to finish. A lock goes to who waits for it (0003_locks.sql). Only a job somebody awaits sends a notification.
with given as materialized (
  select $1::text::bigint[] as ids, $2::text::bigint[] as tokens, $4::text::smallint[] as states, $5::text::bigint[] as micros
), finished as (
  delete from asyncjobs.live_jobs
   where id = any ((select ids from given)::bigint[]) and runner = $3::bigint
     and token = ((select tokens from given))[width_bucket(id, (select ids from given))]
  returning *, width_bucket(id, (select ids from given)) as nth
), kept as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors, result, result_error)
  select id, clock_timestamp(), created_at, scheduled_at,
         coalesce(paid_at, clock_timestamp() - ((select micros from given))[nth]::float8 * interval '1 us'),
         runner, token, priority, attempt, max_attempts, crashes, ((select states from given))[nth],
         queue, kind, method, case when ($9::smallint[])[nth] = 1 then '{}' else args end, meta, tags,
         case when ($9::smallint[])[nth] = 1 then coalesce(options, '{}') || '{"args": "not kept"}' else options end,
         asyncjobs.remember(errors, ($8::text[])[nth]::jsonb),
         ($6::text[])[nth]::jsonb, ($7::text[])[nth]
    from finished
   where ($9::smallint[])[nth] is distinct from 0
)
select id, case when awaited then asyncjobs.notify('asyncjobs:finished', id::text) end,
       case when lock_key is not null or limited then asyncjobs.let_go(id) end from finished
