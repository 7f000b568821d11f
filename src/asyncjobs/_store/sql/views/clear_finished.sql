-- Delete jobs that are final, a chunk at a time.
-- $1 text[] queues, null for every one   $2 text[] kinds, by any ending, of any version, null for every one   $3 integer at most so many
-- Returns how many went.
with gone as (
  delete from asyncjobs.finished_jobs
   where ctid = any (array(
           select ctid
             from asyncjobs.finished_jobs
            where ($1::text[] is null or queue = any ($1::text[]))
              and ($2::text[] is null
                   or exists (select from unnest($2::text[]) wanted (ending), regexp_replace(kind, '@[0-9]+$', '') as plain
                               where ending in (kind, plain) or right(plain, length(ending) + 1) in (':' || ending, '.' || ending)))
            limit $3::integer))
  returning 1
)
select count(*) from gone
