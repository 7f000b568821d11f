-- What this session takes for the time (make_clock.sql).
select clock_timestamp()
