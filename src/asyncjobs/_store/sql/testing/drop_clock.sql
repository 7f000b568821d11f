-- Let the clock of this session go as ever (make_clock.sql).
do $drop_clock$
begin
  perform set_config('search_path', current_setting('asyncjobs_session.search_path'), false),
          set_config('asyncjobs_session.now', '', false);
  execute format('drop schema %I cascade', 'asyncjobs_clock_' || pg_backend_pid()::text);
end
$drop_clock$
