-- Store a job that has run already, at once and in its caller, in the caller's transaction. Nobody ever claims it.
--
-- $1 text queue  $2 text kind  $3 text method  $4 text args, JSON  $5 smallint priority  $6 text[] tags  $7 text meta, JSON
-- $8 text options, JSON  $9 smallint final state  $10 float8 seconds it took  $11 text result, JSON
-- $12 text why the result could not be stored  $13 text error, JSON  $14 smallint what is kept: 0 nothing, else the row
-- Returns its id, of which there may be no row.
with new as materialized (
  select nextval(pg_get_serial_sequence('asyncjobs.live_jobs', 'id')) as id
), kept as (
  insert into asyncjobs.finished_jobs
         (id, finished_at, created_at, scheduled_at, started_at, token, priority, attempt, max_attempts, crashes,
          state, queue, kind, method, args, meta, tags, options, errors, result, result_error)
  select id, clock_timestamp(), statement_timestamp(), statement_timestamp(),
         clock_timestamp() - $10::float8 * interval '1 s', 0, $5::smallint, 1, 1, 0, $9::smallint, $1::text, $2::text, $3::text,
         $4::text::jsonb, $7::text::jsonb, $6::text[], $8::text::jsonb, asyncjobs.remember(null, $13::text::jsonb),
         $11::text::jsonb, $12::text
    from new
   where $14::smallint is distinct from 0
)
select id from new
