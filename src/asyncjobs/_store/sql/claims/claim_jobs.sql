-- Claim ready jobs for one incarnation of a runner, over all its lanes in one statement.
--
-- $1 text[]         queue of each lane
-- $2 text[]         kind of each lane: only kinds this process knows, so unknown ones cost nothing
-- $3 integer[]      pool of slots each lane draws on
-- $4 integer[]      how many jobs the lane's pool has room for; fewer, of a queue of which no more may begin
-- $5 boolean[]      whether the lane has its pool to itself, so that nothing need be shared out
-- $6 smallint[], $7 timestamptz[], $8 bigint[]   the lane's low-water mark: the last job claimed from it. Without it a
--                   claim would step over every dead entry that somebody's long transaction keeps in the index.
-- $9 bigint         the incarnation
-- $10 boolean       whether the jobs begin at once; prefetched ones begin with begin_jobs.sql
-- $11 smallint[]    the least urgent priority the lane's pool takes
-- $12 integer[]     the weight of the lane's queue: among those of one pool, the heavier come first
-- $13 bigint[]      when the lane's queue was last served, by a clock of the runner's own: who has waited longest begins a turn
-- $14 text[]        queues with limits: who is claimed from these has yet to be let in (admit_jobs)
--
-- Where lanes share a pool, `shares` first looks how many of the pool's next jobs each lane holds, unlocked; queues of
-- one pool and weight take turns, and inside a queue priority and age decide. Then each lane locks its share; SKIP LOCKED passes
-- over what others are claiming. The lock is taken by ctid: the plan that cannot flip when statistics are stale. A row
-- that moved between snapshot and lock is missed, so a short claim does not mean a drained queue; an empty one does.
with lanes as materialized (
  select *, max(room) over (partition by pool) as pool_room
    from unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::boolean[],
                $6::smallint[], $7::timestamptz[], $8::bigint[], $11::smallint[], $12::integer[], $13::bigint[])
         with ordinality as lane (queue, kind, pool, room, alone, mark_priority, mark_scheduled_at, mark_id,
                                  last_priority, weight, served, number)
), shares as materialized (
  select number, room::bigint as share from lanes where alone
  union all
  select number, count(*)
    from (select number, pool_room,
                 row_number() over (partition by pool order by weight desc, turn, served, priority, scheduled_at, id) as place
            from (select lanes.number, lanes.pool, lanes.room, lanes.pool_room, lanes.weight, lanes.served, next.*,
                         row_number() over (partition by lanes.pool, lanes.queue
                                            order by next.priority, next.scheduled_at, next.id) as turn
                    from lanes
                   cross join lateral (
                     select priority, scheduled_at, id
                       from asyncjobs.live_jobs ready
                      where ready.queue = lanes.queue and ready.kind = lanes.kind
                        and ready.state = 0 and ready.runner is null
                        and ready.priority <= lanes.last_priority
                        and (ready.priority, ready.scheduled_at, ready.id)
                            > (lanes.mark_priority, lanes.mark_scheduled_at, lanes.mark_id)
                      order by ready.queue, ready.kind, ready.priority, ready.scheduled_at, ready.id
                      limit lanes.room) next
                   where not lanes.alone) turns
           where turn <= room) places
   where place <= pool_room
   group by number
)
update asyncjobs.live_jobs
   set runner = $9::bigint, token = token + 1, attempt = attempt + 1,
       started_at = case when $10::boolean then clock_timestamp() end,
       -- Unchanged as a rule, so that it stays HOT. One with a lock does not start before it has that (acquire_locks), and one
       -- of a limited queue, or with a rate, not before it is let in (admit_jobs, let_in).
       unique_key = case when unique_to_start and lock_key is null and rate_key is null and queue <> all ($14::text[]) then null else unique_key end
 where ctid = any (array(
         select chosen.row
           from shares
           join lanes using (number)
          cross join lateral (
            select ready.ctid as row
              from asyncjobs.live_jobs ready
             where ready.queue = lanes.queue and ready.kind = lanes.kind
               and ready.state = 0 and ready.runner is null
               and ready.priority <= lanes.last_priority
               and (ready.priority, ready.scheduled_at, ready.id)
                   > (lanes.mark_priority, lanes.mark_scheduled_at, lanes.mark_id)
             order by ready.queue, ready.kind, ready.priority, ready.scheduled_at, ready.id
             limit shares.share
               for update skip locked) chosen))
   and runner is null
returning id, token, attempt, max_attempts, priority, queue, kind, method,
          args::text, meta::text, tags, options::text, scheduled_at, lock_key, rate_key
