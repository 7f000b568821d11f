-- Let the clock of this session stand (make_clock.sql).
-- $1 timestamptz at
select set_config('asyncjobs_session.now', $1::timestamptz::text, false)
