-- Take the next minute of which nobody has published a heartbeat: the one that runs, or the oldest that was missed and is not too old.
--
-- Whoever comes second waits for the first, and then sees how far it has come.
-- $1 float8 seconds for which missed minutes are made up for
-- Returns one row: that minute, or null, and the seconds until the next one begins.
with clock as (
  select date_trunc('minute', clock_timestamp(), 'UTC') as minute,
         date_trunc('minute', clock_timestamp() - $1::float8 * interval '1 s', 'UTC') as oldest
), beaten as (
  update asyncjobs.heartbeat
     set minute = case
           when heartbeat.minute is null then clock.minute
           when heartbeat.minute < oldest then oldest
           else heartbeat.minute + interval '1 min'
         end
    from clock
   where heartbeat.minute is null or heartbeat.minute < clock.minute
  returning heartbeat.minute
)
select (select minute from beaten) as minute, 60.0::float8 - extract(second from clock_timestamp())::float8 as seconds
