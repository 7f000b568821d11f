-- Cancel many jobs, a chunk at a time: those that wait are final at once; runners are asked to stop those that run (see cancel_job).
-- $1 text[] states   $2 text[] queues   $3 text[] kinds, by any ending, of any version   $4 text[] tags, all of which they have;
-- null for all   $5 bigint only ids above   $6 integer look at so many
-- Returns how many were looked at, the highest id of them, how many are cancelled, and of how many it is requested. Where a job stands
-- is read from its row as it was locked: one that was claimed just now runs. A lock that was handed to one goes to the next that
-- stays: sorted, all are gone before the first lets go.
with chosen as materialized (
  select id
    from asyncjobs.jobs
   where id > $5::bigint and state = any ($1::text[])
     and ($2::text[] is null or queue = any ($2::text[]))
     and ($3::text[] is null
          or exists (select from unnest($3::text[]) wanted (ending), regexp_replace(kind, '@[0-9]+$', '') as plain
                      where ending in (kind, plain) or right(plain, length(ending) + 1) in (':' || ending, '.' || ending)))
     and ($4::text[] is null or tags @> $4::text[])
   order by id limit $6::integer
), target as materialized (
  select id, runner from asyncjobs.live_jobs
   where id = any (array(select id from chosen)) and id > 0
     and case when runner is not null then 'running' when state = 1 then 'scheduled' when state = 2 then 'retryable'
              when state in (3, 6) then 'blocked' else 'available' end = any ($1::text[])
   order by id for update
), gone as (
  delete from asyncjobs.live_jobs
   where id = any (array(select id from target where runner is null)) and runner is null
  returning *
), kept as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors)
  select id, clock_timestamp(), created_at, scheduled_at, started_at, runner, token, priority, attempt, max_attempts, crashes,
         12, queue, kind, method, args, meta, tags, options, errors
    from gone
), asked as (
  update asyncjobs.live_jobs
     set cancel_requested = true
   where id = any (array(select id from target where runner is not null))
  returning id
)
select (select count(*) from chosen) as seen, (select max(id) from chosen) as highest, count(*) as cancelled,
       (select count(*) from (select id, asyncjobs.notify('asyncjobs:cancel', id::text) from asked offset 0) told) as requested,
       count(case when awaited then asyncjobs.notify('asyncjobs:finished', id::text) end),
       count(case when lock_key is not null then asyncjobs.let_go(id) end),
       (select count(asyncjobs.hurry_rate(rate_key)::text)
          from (select distinct rate_key from gone where state = 6 order by rate_key) lines)
  from (select id, awaited, lock_key from gone order by id) gone
