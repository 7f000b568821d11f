-- Store one new job in the caller's transaction, and wake an idle runner when it commits: insert_jobs.sql for one.
--
-- Most jobs are enqueued alone, and here nothing is unpacked, joined or gathered: half of what the bulk form costs above the
-- bare INSERT.
-- $1 text queue  $2 text kind  $3 text method  $4 text args, JSON  $5 smallint priority  $6 smallint max_attempts
-- $7 float8 delay, seconds  $8 timestamptz scheduled_at  $9 text[] tags  $10 text meta, JSON  $11 text options, JSON
-- $12 boolean whether to look for an idle runner: in RETURNING, after the row has its transaction id
insert into asyncjobs.live_jobs
       (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options)
values ($1::text, $2::text, $3::text, $4::text::jsonb, $5::smallint, $6::smallint, statement_timestamp(),
        coalesce($8::timestamptz, statement_timestamp() + $7::float8 * interval '1 s', statement_timestamp()),
        case when $8::timestamptz > statement_timestamp() or $7::float8 > 0::float8 then 1 else 0 end,
        $9::text[], $10::text::jsonb, $11::text::jsonb)
returning id, case when $12::boolean then asyncjobs.wake(queue) end
