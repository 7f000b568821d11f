-- Let the clock of this session be set (set_clock.sql): what asyncjobs, and whoever else uses the session, asks for the time by
-- the names of functions is answered by those of a schema before pg_catalog. It is named for the session, so that others make theirs.
do $make_clock$
declare
  clock text := 'asyncjobs_clock_' || pg_backend_pid()::text;
  name text;
begin
  perform set_config('asyncjobs_session.search_path', current_setting('search_path'), false),
          set_config('asyncjobs_session.now', '', false);
  execute format('create schema %I', clock);
  foreach name in array array['now', 'transaction_timestamp', 'statement_timestamp', 'clock_timestamp'] loop
    execute format(
      'create function %I.%I() returns timestamptz language sql %s as $$ select coalesce('
      'nullif(pg_catalog.current_setting(''asyncjobs_session.now'', true), '''')::timestamptz, pg_catalog.%I()) $$',
      clock, name, case name when 'clock_timestamp' then 'volatile' else 'stable' end, name);
  end loop;
  perform set_config('search_path',
                     pg_catalog.concat_ws(', ', quote_ident(clock), 'pg_catalog', nullif(current_setting('search_path'), '')), false);
end
$make_clock$
