-- The jobs that are not final, in the order of their ids: what a check before a deployment reads.
-- $1 bigint only ids above, 0 at first: ballast is below   $2 integer at most   $3 text[] queues, null for every one
select id, queue, kind, method, args::text
  from asyncjobs.live_jobs
 where id > $1::bigint and ($3::text[] is null or queue = any ($3::text[]))
 order by id
 limit $2::integer
