-- Claim one suspect, the least suspected first, if none runs alone anywhere. It begins at once.
--
-- $1 text[]  queues, '' for every one   $2 text[] kinds   $3 float8 seconds a suspect is alone   $4 integer crashes that fail it
-- $5 bigint  the incarnation, which holds no other job   $6 smallint, $7 smallint the priorities this runner takes
-- Whoever claims a suspect has locked `solitude`, and asks only then whether one runs: asyncjobs.suspect_runs is volatile, so it
-- sees what was committed before the lock was had, which this statement's own view may not. The lock is passed over, not
-- waited for: who is frozen holding it holds up nobody's other jobs. The commit is durable, whatever the session says: a
-- claim that a crash of the server forgot would let a second suspect begin.
with mine as materialized (
  select set_config('synchronous_commit', 'on', true) from (select from asyncjobs.solitude for update skip locked) locked
), chosen as materialized (
  select id
    from asyncjobs.live_jobs
   where state = 4
     and kind = any ($2::text[]) and ('' = any ($1::text[]) or queue = any ($1::text[]))
     and priority between $6::smallint and $7::smallint
     and queue <> all ((select asyncjobs.closed_queues(0))::text[])
     and (select case when exists (select from mine) then not asyncjobs.suspect_runs($3::float8, $4::integer) end)
   order by crashes, priority, scheduled_at, id limit 1
     for update skip locked
), claimed as (
  update asyncjobs.live_jobs
     set state = 0, runner = $5::bigint, token = token + 1, attempt = attempt + 1, started_at = clock_timestamp()
   where id = any (array(select id from chosen)) and state = 4
  returning *
), noted as (
  update asyncjobs.solitude
     set job = claimed.id, token = claimed.token, closed_until = '-infinity', patience = 2
    from claimed
)
select id, token, attempt, max_attempts, priority, queue, kind, method,
       args::text, meta::text, tags, options::text, scheduled_at, lock_key, rate_key, crashes
  from claimed
