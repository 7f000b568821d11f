-- Take back every job a dead incarnation held, and forget the incarnation.
--
-- $1 bigint   the incarnation   $2 integer  crashes after which a job is failed   $3 text  the error to remember, JSON
-- $4 boolean  whether a crash is to blame; false when its process lives on under another incarnation
-- A job it had begun gets a crash on its record, and is a suspect from then on: it waits to run alone (claim_suspect.sql).
-- Where a suspect had begun, it is to blame, and nobody beside it, now or at a later look. After $2 crashes a job is failed, and kept until somebody
-- decides. A job that was only prefetched is innocent. Both get the attempt back, unless somebody asked to stop them: then they are
-- cancelled. Tokens stay, so the dead one's writes, should it come to life again, are refused.
--
-- A row that is locked is passed by, and the incarnation stays on the list: a process may have been frozen in the middle of
-- a transaction that completes its job, and whoever waited for that would be frozen with it. The next look tries again.
with begun as materialized (
  select job.id, job.token
    from asyncjobs.runners, unnest(begun, begun_tokens) job (id, token)
   where incarnation = $1::bigint
), suspected as materialized (
  select from asyncjobs.runners where incarnation = $1::bigint and accused
  union all
  select
    from asyncjobs.live_jobs
   where $4::boolean and state = 0 and runner = $1::bigint and crashes > 0
     and (started_at is not null or (id, token) in (select id, token from begun))
), held as materialized (
  select theirs.id, theirs.blamed,
         case when theirs.cancel_requested then 12 when theirs.blamed and theirs.crashes + 1 >= $2::integer then 14 end
           as final
    from (select live_jobs.id, live_jobs.cancel_requested, live_jobs.crashes,
                 $4::boolean and (live_jobs.started_at is not null
                                  or (live_jobs.id, live_jobs.token) in (select id, token from begun))
                 and (live_jobs.crashes > 0 or not exists (select from suspected)) as blamed
            from asyncjobs.live_jobs
           where live_jobs.state = 0 and live_jobs.runner = $1::bigint
           order by live_jobs.id
             for update skip locked) theirs
), back as (
  update asyncjobs.live_jobs
     set runner = null, started_at = null, attempt = attempt - 1,
         state = case when crashes > 0 or held.blamed then 4 else 0 end,
         crashes = crashes + case when held.blamed then 1 else 0 end,
         errors = case when held.blamed then asyncjobs.remember(errors, jsonb_build_object('attempt', attempt) || $3::text::jsonb)
                       else errors end
    from held
   where live_jobs.id = held.id and held.final is null
  returning live_jobs.id, live_jobs.queue, live_jobs.lock_key, live_jobs.limited
), gone as (
  delete from asyncjobs.live_jobs
   using held
   where live_jobs.id = held.id and held.final is not null
  returning live_jobs.*, held.blamed, held.final
), kept as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors)
  select id, clock_timestamp(), created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts,
         crashes + case when blamed then 1 else 0 end, final, queue, kind, method, args, meta, tags, options,
         case when blamed then asyncjobs.remember(errors, jsonb_build_object('attempt', attempt) || $3::text::jsonb
           || case when final = 14 then jsonb_build_object('error', format(
                'RunnerLost: it took %s down, so it runs again only when somebody retries it',
                case when crashes = 0 then '1 runner' else format('%s runners', crashes + 1) end))
                else '{}' end)
              else errors end
    from gone
), forgotten as (
  delete from asyncjobs.runners
   where incarnation = $1::bigint
     and not exists (select from asyncjobs.live_jobs
                      where state = 0 and runner = $1::bigint and id <> all (array(select id from held)))
  returning incarnation
), accused as (
  update asyncjobs.runners
     set accused = true
   where incarnation = $1::bigint and not accused and exists (select from suspected)
     and exists (select from asyncjobs.live_jobs
                  where state = 0 and runner = $1::bigint and id <> all (array(select id from held)))
)
select (select count(*) from back) as rescued,
       (select count(*) from gone where final = 14) as failed,
       (select count(*) from gone where final = 12) as cancelled,
       exists (select from forgotten) as forgotten,
       (select name from asyncjobs.runners where incarnation = $1::bigint) as name,
       array(select id from gone where final = 14 order by id) as failed_ids,
       array(select kind from gone where final = 14 order by id) as failed_kinds,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from back) queues) as woken,
       (select count(asyncjobs.notify('asyncjobs:finished', id::text)) from gone where awaited) as told,
       (select sum(asyncjobs.let_go(id))
          from (select id, lock_key, limited from back union all select id, lock_key, limited from gone) ended
         where lock_key is not null or limited) as unlocked
