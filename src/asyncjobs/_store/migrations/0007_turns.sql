-- expand: code from version 1 on can work with this schema.
--
-- Fair turns among the keys inside a queue: one tenant's hundred thousand jobs do not starve another's ten.
--
-- A job with a fair_key waits *in line* (state 5), in an index of its own, where no claim looks: lines of any length cost the claims
-- nothing. Runners *deal* (deal_turns): they see to it that of each queue about as many jobs lie ready as they have slots, and take
-- them from the lines of the keys in turns. A turn is a place in the order of the queue: the job that is dealt gets a scheduled_at
-- after all that were dealt before, so claims need not know of keys. It is as old as the oldest of those dealt with it, so that
-- beside jobs without a key all of them together have the place they would have had.
--
-- Nothing is kept of a key: who is next is found in the index of lines, from where the last turn was (`turns`). So nothing of a key
-- can drift, be left behind by a crash, or need sweeping: a job is in line until it is dealt, and whoever has slots deals.
--
-- What holds: of the jobs of one queue and priority, between two turns of one key each other key whose jobs wait has one. Nobody
-- overtakes after that. Priority goes before turns, as everywhere in a queue.

alter table asyncjobs.live_jobs
  add column fair_key text collate "C",        -- jobs that have it share a turn
  drop constraint live_jobs_state_check,
  add constraint live_jobs_state_check check (state between 0 and 5),   -- 5 in line: ready when its key has its turn
  add check (state <> 5 or (fair_key is not null and crashes = 0));

-- The lines: the keys of a lane one after the other, and in each its jobs in their order.
create index live_jobs_in_line on asyncjobs.live_jobs (queue, kind, priority, fair_key, scheduled_at, id) where state = 5;
-- What was dealt, and is not done: to see how much of it nobody has claimed yet.
create index live_jobs_dealt on asyncjobs.live_jobs (queue, priority, scheduled_at) where state = 0 and fair_key is not null;

-- Whose turn it was last. Runners that know other kinds go round by themselves: one would else move another past keys whose jobs
-- it does not know.
create table asyncjobs.turns (
  queue text collate "C" not null,
  priority smallint not null,
  known integer not null,                      -- a hash of the kinds that those know whose round this is
  last_key text collate "C" not null default '',
  last_at timestamptz not null default '-infinity',      -- the place of that turn
  waiting_from timestamptz not null default '-infinity', -- what was dealt before is claimed: a count need not step over it
  dealt_at timestamptz not null default now(),
  primary key (queue, priority, known)
) with (
  fillfactor = 50, vacuum_truncate = off,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);

-- Deal turns, until of each of these queues so many jobs lie ready: the more urgent first, each priority by its own round.
--
-- *names* are queues, '' for every one; *known* kinds in order; jobs from priority *first* to *last* count. Returns the lanes that
-- have lines, and how many jobs were dealt from each.
-- One at a time: the row of the round is locked, for this statement alone, so each sees what those before it dealt. A job that
-- somebody is changing just now is passed by.
create function asyncjobs.deal_turns(names text[], known text[], first smallint, last smallint, wanted integer)
  returns table (queue_name text, kind_name text, dealt integer) language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  knowing constant integer := hashtext(pg_catalog.array_to_string(known, E'\n'));
  lanes text[];                                -- that have lines, and which of them are of known kinds
  line text[];
  level integer;
  round record;
  ready integer;
  missing integer;
  oldest timestamptz;
  from_at timestamptz;
  latest timestamptz;
  last_turn text;
  ids bigint[];
  all_ready text[];
begin
  for queue_name in
    with recursive lined as (
      (select queue from asyncjobs.live_jobs where state = 5 order by queue limit 1)
      union all
      select following.queue
        from lined
       cross join lateral (
         select queue from asyncjobs.live_jobs where state = 5 and queue > lined.queue order by queue limit 1) following
    )
    select queue from lined
     where ('' = any (names) or queue = any (names))
       and not exists (select from asyncjobs.queues where name = lined.queue and paused_at is not null)
     order by queue
  loop
    lanes := array(
      with recursive lined as (
        (select kind from asyncjobs.live_jobs where state = 5 and queue = queue_name order by queue, kind limit 1)
        union all
        select following.kind
          from lined
         cross join lateral (
           select kind from asyncjobs.live_jobs
            where state = 5 and queue = queue_name and kind > lined.kind
            order by queue, kind limit 1) following
      )
      select kind from lined order by kind);
    line := array(select kind from unnest(lanes) lane (kind) where kind = any (known) order by kind);
    all_ready := '{}';
    missing := wanted;
    level := first;
    while missing > 0 and cardinality(line) > 0 loop
      select min(priority) into level
        from unnest(line) lane (kind)
       cross join lateral (
         select priority from asyncjobs.live_jobs
          where state = 5 and queue = queue_name and live_jobs.kind = lane.kind and priority between level and last
          order by queue, live_jobs.kind, priority limit 1) urgent;
      exit when level is null;

      insert into asyncjobs.turns (queue, priority, known) values (queue_name, level, knowing) on conflict do nothing;
      if found then  -- new code: that of yesterday may be gone
        delete from asyncjobs.turns
         where queue = queue_name and priority = level and turns.known <> knowing and dealt_at < now() - interval '1 day';
      end if;
      select last_key, last_at, waiting_from into round
        from asyncjobs.turns
       where queue = queue_name and priority = level and turns.known = knowing
         for update;
      select count(*), min(scheduled_at) into ready, oldest
        from (select scheduled_at
                from asyncjobs.live_jobs
               where state = 0 and fair_key is not null and queue = queue_name and priority = level
                 and scheduled_at >= round.waiting_from and runner is null and kind = any (known)
               order by queue, priority, scheduled_at limit missing) unclaimed;
      missing := missing - ready;
      exit when missing <= 0;

      last_turn := round.last_key;
      latest := round.last_at;
      while missing > 0 loop
        -- The keys from the one after the last turn round to that one; where they are fewer than the turns, several turns each, and
        -- once more where some had no more jobs.
        ids := array(with recursive ahead (key, nth) as (
          (select fair_key, 1
             from unnest(line) lane (kind)
            cross join lateral (
              select fair_key from asyncjobs.live_jobs
               where state = 5 and queue = queue_name and live_jobs.kind = lane.kind and priority = level
                 and fair_key > last_turn
               order by queue, live_jobs.kind, priority, fair_key limit 1) next
            order by fair_key limit 1)
          union all
          select following.fair_key, nth + 1
            from ahead
           cross join lateral (
             select fair_key
               from unnest(line) lane (kind)
              cross join lateral (
                select fair_key from asyncjobs.live_jobs
                 where state = 5 and queue = queue_name and live_jobs.kind = lane.kind and priority = level
                   and fair_key > ahead.key
                 order by queue, live_jobs.kind, priority, fair_key limit 1) next
              order by fair_key limit 1) following
           where nth < missing
        ), behind (key, nth) as (
          (select fair_key, (select count(*) from ahead) + 1
             from unnest(line) lane (kind)
            cross join lateral (
              select fair_key from asyncjobs.live_jobs
               where state = 5 and queue = queue_name and live_jobs.kind = lane.kind and priority = level
                 and fair_key <= last_turn
               order by queue, live_jobs.kind, priority, fair_key limit 1) next
            where (select count(*) from ahead) < missing
            order by fair_key limit 1)
          union all
          select following.fair_key, nth + 1
            from behind
           cross join lateral (
             select fair_key
               from unnest(line) lane (kind)
              cross join lateral (
                select fair_key from asyncjobs.live_jobs
                 where state = 5 and queue = queue_name and live_jobs.kind = lane.kind and priority = level
                   and fair_key > behind.key and fair_key <= last_turn
                 order by queue, live_jobs.kind, priority, fair_key limit 1) next
              order by fair_key limit 1) following
           where nth < missing
        ), circle as materialized (
          select key, nth::bigint from ahead union all select key, nth from behind
        ), chosen as materialized (
          select id, nth, row_number() over (partition by nth order by scheduled_at, id) as lap
            from circle
           cross join lateral (
             select id, scheduled_at
               from unnest(line) lane (kind)
              cross join lateral (
                select id, scheduled_at from asyncjobs.live_jobs
                 where state = 5 and queue = queue_name and live_jobs.kind = lane.kind and priority = level
                   and fair_key = circle.key
                 order by queue, live_jobs.kind, priority, fair_key, scheduled_at, id
                 limit (select (missing + count(*) - 1) / count(*) from circle)
                   for update skip locked) of_lane
              order by scheduled_at, id
              limit (select (missing + count(*) - 1) / count(*) from circle)) theirs
        )
        select id from chosen order by lap, nth limit missing);

        exit when cardinality(ids) = 0;
        from_at := greatest((select min(scheduled_at) from asyncjobs.live_jobs where id = any (ids)), latest + interval '1 us');
        latest := from_at + (cardinality(ids) - 1)::float8 * interval '1 us';
        last_turn := (select fair_key from asyncjobs.live_jobs where id = ids[cardinality(ids)]);
        oldest := coalesce(oldest, from_at);
        missing := missing - cardinality(ids);
        update asyncjobs.live_jobs
           set state = 0, scheduled_at = from_at + (pg_catalog.array_position(ids, id) - 1)::float8 * interval '1 us'
         where id = any (ids);
        all_ready := all_ready || array(select kind from asyncjobs.live_jobs where id = any (ids));
      end loop;
      if latest > round.last_at then
        update asyncjobs.turns
           set last_key = last_turn, last_at = latest, waiting_from = oldest, dealt_at = clock_timestamp()
         where queue = queue_name and priority = level and turns.known = knowing;
      end if;
      exit when level >= last;
      level := level + 1;
    end loop;
    if cardinality(all_ready) > 0 then
      perform asyncjobs.wake(queue_name);
    end if;
    return query
      select queue_name, lane.kind, (select count(*)::integer from unnest(all_ready) ready_kind where ready_kind = lane.kind)
        from unnest(lanes) lane (kind);
  end loop;
end $$;
