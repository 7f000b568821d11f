-- Jobs, newest first.
-- $1 text[] states  $2 text[] queues  $3 text[] kinds, or endings of kinds, of any version; null for all   $4 bigint only ids below
-- $5 integer at most   $6 text[] tags, all of which they have
select id, kind, method, queue, state, priority, attempt, max_attempts, crashes, args::text, meta::text, tags,
       created_at, scheduled_at, started_at, finished_at, runner, result::text, result_error, errors::text
  from asyncjobs.jobs
 where ($1::text[] is null or state = any ($1::text[]))
   and ($2::text[] is null or queue = any ($2::text[]))
   and ($3::text[] is null or kind = any ($3::text[])
        or exists (select from unnest($3::text[]) as ending, regexp_replace(kind, '@[0-9]+$', '') as plain
                    where plain = ending or right(plain, length(ending) + 1) in (':' || ending, '.' || ending)))
   and ($6::text[] is null or tags @> $6::text[])
   and ($4::bigint is null or id < $4::bigint)
 order by id desc
 limit $5::integer
