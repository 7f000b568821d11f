-- Delete jobs that nobody runs, a chunk at a time: they are not cancelled, they are gone.
-- $1 text[] queues, null for every one   $2 text[] kinds, by any ending, of any version, null for every one   $3 integer at most so many
-- Returns how many went. Who awaits one is told, and finds nothing; a lock that was handed to one goes to the next that stays:
-- sorted, all are gone before the first lets go.
with chosen as materialized (
  select id from asyncjobs.live_jobs
   where runner is null and id > 0
     and ($1::text[] is null or queue = any ($1::text[]))
     and ($2::text[] is null
          or exists (select from unnest($2::text[]) wanted (ending), regexp_replace(kind, '@[0-9]+$', '') as plain
                      where ending in (kind, plain) or right(plain, length(ending) + 1) in (':' || ending, '.' || ending)))
   order by id limit $3::integer
     for update skip locked
), gone as (
  delete from asyncjobs.live_jobs
   where id = any (array(select id from chosen)) and runner is null
  returning id, awaited, lock_key, state, rate_key
)
select count(*),
       count(case when awaited then asyncjobs.notify('asyncjobs:finished', id::text) end),
       count(case when lock_key is not null then asyncjobs.let_go(id) end),
       (select count(asyncjobs.hurry_rate(rate_key)::text)
          from (select distinct rate_key from gone where state = 6 order by rate_key) lines)
  from (select id, awaited, lock_key from gone order by id) gone
