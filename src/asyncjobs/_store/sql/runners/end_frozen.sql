-- End the session of every runner that holds its lock and has said nothing for long: its process was stopped and never went on,
-- and the server, whose packets the machine still answers, would believe in it for ever. Without the lock it is dead like any other.
-- $1 bigint  this incarnation   $2 float8  seconds since it last renewed its lease
-- A session that holds the lock of one who did renew is alive: it keeps that of an incarnation it has not wound up yet.
-- Should it go on after all, it finds its session gone and its claims refused. Takes the same role, or pg_signal_backend.
with holders as materialized (
  select incarnation, pid, seen_at < now() - $2::float8 * interval '1 s' as is_silent
    from asyncjobs.runners
    join pg_locks on locktype = 'advisory' and granted
                 and database = (select oid from pg_database where datname = current_database())
                 and classid = 1634364780 and objid = (lock_key::bigint & 4294967295)::oid and objsubid = 2
   where holds_lock
)
select incarnation, pg_terminate_backend(pid)
  from holders
 where is_silent and incarnation <> $1::bigint and pid not in (select pid from holders where not is_silent)
