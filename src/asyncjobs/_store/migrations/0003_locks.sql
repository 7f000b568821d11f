-- expand: code from version 1 on can work with this schema.
--
-- Mutual exclusion while running. Of the jobs with one lock_key at most lock_slots run at a time: each holds a row (key, slot),
-- which the primary key keeps apart. A counter could drift, and a count of running jobs is a view of the past; a row says who
-- holds it: this job, under this claim (token).
--
-- A job is claimed like any other, and asks for its lock then (acquire_locks.sql). Who finds no slot is *blocked* (state 3): out of
-- the ready index, its attempt given back. Whoever ends gives its row to the first of those who wait, in the very
-- transaction that ends it (let_go), so that nobody overtakes and nobody looks in between.
--
-- The race of one who goes to wait with one who ends and finds nobody waiting: who goes to wait share-locks the rows that are in
-- its way until it has committed; who ends locks its row first and looks then. A row that is being let go just now cannot be
-- locked: then the verdict is 'doubt', and the runner looks once more (settle_locks). A sweep finds what all of them left.
--
-- No deadlock: rows are inserted in the order of their keys, live_jobs and share locks are skipped where they are taken.

create table asyncjobs.locks (
  key text collate "C" not null,
  slot smallint not null check (slot > 0),
  job bigint not null,
  token bigint not null,                       -- of the claim that holds it; of the claim to come, where it was handed over
  since timestamptz not null default clock_timestamp(),
  primary key (key, slot)
) with (
  fillfactor = 50, vacuum_truncate = off,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);
create index locks_job on asyncjobs.locks (job);

-- Limits of a queue, over all processes. A place in a queue with limited concurrency is a lock like any other, with the key
-- 'queue:' and the queue's name. Nobody waits for it in line: a full queue is claimed from by nobody, like a paused one, until
-- who ends says that there is room. A rate is a bucket of *burst* tokens, one more each *every* seconds (GCRA): *next_at* is when
-- it would be full again.
alter table asyncjobs.queues
  add column concurrency integer check (concurrency > 0),
  add column every float8 check (every > 0::float8),
  add column burst integer check (burst > 0),
  add column next_at timestamptz,
  add check ((every is null) = (burst is null));
alter table asyncjobs.live_jobs add column limited boolean;   -- it has a place in a queue with limited concurrency

-- Who waits for a key, in the order of their turns.
create index live_jobs_blocked on asyncjobs.live_jobs (lock_key, priority, scheduled_at, id) where state = 3;

-- How many jobs of a rate may begin now; without a rate, any number.
create function asyncjobs.tokens_in(every float8, burst integer, next_at timestamptz) returns integer language sql volatile as $$
  select case when every is null then 2147483647
              else floor(burst::float8 - extract(epoch from greatest(next_at - clock_timestamp(), interval '0'))::float8 / every
                         + 0.000001::float8)::integer end
$$;

-- Queues nothing may be claimed from: paused, or full, were it not for *leaving*. Who waits there for a lock is passed over.
create function asyncjobs.closed_queues(leaving bigint) returns text[] language sql volatile as $$
  select array(
    select name
      from asyncjobs.queues
     where paused_at is not null
        or concurrency <= (select count(*) from asyncjobs.locks where key = 'queue:' || name and job <> leaving))
$$;

-- What a job holds goes to who waits for it, or is free. Called by every statement that ends a claim, and only for jobs that
-- have a lock, in the same transaction. Where the caller's transaction sees the past (repeatable read), it only frees: to hand over
-- could fail his commit, and the sweep does it.
-- The settings are this function's own: it runs in applications' sessions, too, and the plan must not depend on statistics.
create function asyncjobs.let_go(holder bigint) returns integer language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  held record;
  heir bigint;
  heirs_token bigint;
  heirs_queue text;
  heirs_crashes smallint;
  freed integer := 0;
  closed text[];
begin
  for held in select key, slot from asyncjobs.locks where job = holder order by key, slot for update loop
    heir := null;
    if left(held.key, 6) = 'queue:' then
      perform asyncjobs.notify('asyncjobs:queues', name)
         from asyncjobs.queues
        where 'queue:' || name = held.key
          and concurrency <= (select count(*) from asyncjobs.locks where key = held.key);
    elsif current_setting('transaction_isolation') = 'read committed' then
      closed := coalesce(closed, asyncjobs.closed_queues(holder));
      select id, token, queue, crashes into heir, heirs_token, heirs_queue, heirs_crashes
        from asyncjobs.live_jobs
       where state = 3 and lock_key = held.key and lock_slots >= held.slot and queue <> all (closed)
       order by lock_key, priority, scheduled_at, id limit 1
         for update skip locked;
    end if;
    if heir is null then
      delete from asyncjobs.locks where key = held.key and slot = held.slot;
    else
      update asyncjobs.locks
         set job = heir, token = heirs_token + 1, since = clock_timestamp()
       where key = held.key and slot = held.slot;
      update asyncjobs.live_jobs set state = case when heirs_crashes > 0 then 4 else 0 end where id = heir;
      perform asyncjobs.wake(heirs_queue);
    end if;
    freed := freed + 1;
  end loop;
  return freed;
end $$;

-- Take the locks of claimed jobs, or let them wait: the verdict for each is 'held', 'blocked', or 'doubt': blocked, and whoever
-- is in the way may be ending just now. Of jobs that are missing in the answer nothing is known: they go back. Those that
-- are *to_admit*, too, have not started with it, and keep their unique keys.
create function asyncjobs.acquire_locks(ids bigint[], tokens bigint[], incarnation bigint, to_admit bigint[])
  returns table (job_id bigint, verdict text) language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  mine record;
  has boolean;
  taken smallint;
  in_the_way integer;
  asked_key text;
  full_key text;
  of_full text;
begin
  for mine in
    select id, token, lock_key, lock_slots, priority, scheduled_at, cancel_requested,
           unique_to_start and unique_key is not null and id <> all (to_admit) as starts
      from asyncjobs.live_jobs
     where id = any (ids) and runner = incarnation and token = tokens[width_bucket(id, ids)] and lock_key is not null
     order by lock_key, priority, scheduled_at, id
       for update skip locked
  loop
    job_id := mine.id;
    update asyncjobs.locks set token = mine.token, since = clock_timestamp() where job = mine.id;
    has := found;  -- it was handed over
    continue when mine.cancel_requested and not has;  -- it goes back, and is cancelled there
    if not has and asked_key is distinct from mine.lock_key then
      -- Who waits already comes first, where a race left a slot free.
      if (select count(*) from asyncjobs.locks where key = mine.lock_key and slot <= mine.lock_slots) < mine.lock_slots
         and exists (select from asyncjobs.live_jobs waiting
                      where waiting.state = 3 and waiting.lock_key = mine.lock_key
                        and (waiting.priority, waiting.scheduled_at, waiting.id) < (mine.priority, mine.scheduled_at, mine.id))
      then
        perform asyncjobs.settle_locks(array[mine.lock_key]);
      end if;
      asked_key := mine.lock_key;
    end if;
    if not has and full_key is distinct from mine.lock_key then
      taken := null;
      in_the_way := 0;
      for again in 0..mine.lock_slots loop
        insert into asyncjobs.locks (key, slot, job, token)
        select mine.lock_key, free.slot, mine.id, mine.token
          from generate_series(1, mine.lock_slots::integer) free (slot)
         where not exists (select from asyncjobs.locks other where other.key = mine.lock_key and other.slot = free.slot)
         order by free.slot limit 1
        on conflict (key, slot) do nothing
        returning slot into taken;
        exit when taken is not null;
        perform from asyncjobs.locks where key = mine.lock_key and slot <= mine.lock_slots for share skip locked;
        get diagnostics in_the_way = row_count;
        exit when in_the_way >= mine.lock_slots;
      end loop;
      has := taken is not null;
      if not has then
        full_key := mine.lock_key;
        of_full := case when in_the_way >= mine.lock_slots then 'blocked' else 'doubt' end;
      end if;
    end if;
    if has then
      verdict := 'held';
      if mine.starts then
        update asyncjobs.live_jobs set unique_key = null where id = mine.id;
      end if;
    else
      verdict := of_full;
      update asyncjobs.live_jobs
         set state = 3, runner = null, started_at = null, attempt = attempt - 1
       where id = mine.id;
    end if;
    return next;
  end loop;
end $$;

-- Give free slots of these keys to who waits for them; null: of every key somebody waits for. Returns how many.
create function asyncjobs.settle_locks(keys text[]) returns integer language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  wanted text;
  heir record;
  taken smallint;
  handed integer := 0;
  most smallint;
  closed text[] := asyncjobs.closed_queues(0);
begin
  for wanted in
    with recursive waited_for as (
      (select lock_key, lock_slots from asyncjobs.live_jobs where state = 3 and lock_key > '' order by lock_key limit 1)
      union all
      select following.lock_key, following.lock_slots
        from waited_for
       cross join lateral (
         select lock_key, lock_slots from asyncjobs.live_jobs
          where state = 3 and lock_key > waited_for.lock_key
          order by lock_key limit 1) following
    )
    select lock_key
      from waited_for
     where keys is null and (select count(*) from asyncjobs.locks where key = lock_key and slot <= lock_slots) < lock_slots
    union all
    (select key from unnest(keys) key order by key)
  loop
    loop
      -- Where nothing is free the row of who is next is left alone: who ends just now would pass it over.
      select lock_slots into most
        from asyncjobs.live_jobs
       where state = 3 and lock_key = wanted and queue <> all (closed)
       order by lock_key, priority, scheduled_at, id limit 1;
      exit when not found or (select count(*) from asyncjobs.locks where key = wanted and slot <= most) >= most;
      select id, token, queue, crashes, lock_slots into heir
        from asyncjobs.live_jobs
       where state = 3 and lock_key = wanted and queue <> all (closed)
       order by lock_key, priority, scheduled_at, id limit 1
         for update skip locked;
      exit when not found;
      taken := null;
      insert into asyncjobs.locks (key, slot, job, token)
      select wanted, free.slot, heir.id, heir.token + 1
        from generate_series(1, heir.lock_slots::integer) free (slot)
       where not exists (select from asyncjobs.locks other where other.key = wanted and other.slot = free.slot)
       order by free.slot limit 1
      on conflict (key, slot) do nothing
      returning slot into taken;
      exit when taken is null;
      update asyncjobs.live_jobs set state = case when heir.crashes > 0 then 4 else 0 end where id = heir.id;
      perform asyncjobs.wake(heir.queue);
      handed := handed + 1;
    end loop;
  end loop;
  return handed;
end $$;

-- Let claimed jobs of limited queues run, as many as there are places and tokens, in the order of the queue: their ids. One
-- after the other, because each holds the queue's row. One that somebody's transaction keeps from starting is passed by.
create function asyncjobs.admit_jobs(ids bigint[], tokens bigint[], incarnation bigint)
  returns setof bigint language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  queue_row record;
  mine record;
  bucket integer;
  admitted integer;
  places integer;
begin
  for queue_row in
    select name, concurrency, every, burst, next_at
      from asyncjobs.queues
     where name = any (array(select queue from asyncjobs.live_jobs where id = any (ids)))
     order by name
       for update
  loop
    admitted := 0;
    bucket := asyncjobs.tokens_in(queue_row.every, queue_row.burst, queue_row.next_at);
    -- Where the limit was lowered more may run than there are places, and one that is free counts for nothing.
    places := queue_row.concurrency - (select count(*) from asyncjobs.locks where key = 'queue:' || queue_row.name);
    for mine in
      select id, token, unique_to_start and unique_key is not null as starts
        from asyncjobs.live_jobs
       where id = any (ids) and runner = incarnation and token = tokens[width_bucket(id, ids)]
         and queue = queue_row.name and not cancel_requested
       order by priority, scheduled_at, id
         for update skip locked
    loop
      exit when admitted >= bucket or admitted >= places;
      if queue_row.concurrency is not null then
        insert into asyncjobs.locks (key, slot, job, token)
        select 'queue:' || queue_row.name, free.slot, mine.id, mine.token
          from generate_series(1, queue_row.concurrency) free (slot)
         where not exists (select from asyncjobs.locks other
                            where other.key = 'queue:' || queue_row.name and other.slot = free.slot)
         order by free.slot limit 1
        on conflict (key, slot) do nothing;
        exit when not found;
        update asyncjobs.live_jobs set limited = true where id = mine.id;
      end if;
      if mine.starts then
        update asyncjobs.live_jobs set unique_key = null where id = mine.id;
      end if;
      admitted := admitted + 1;
      return next mine.id;
    end loop;
    if queue_row.every is not null and admitted > 0 then
      update asyncjobs.queues
         set next_at = greatest(next_at, clock_timestamp()) + admitted * every * interval '1 s'
       where name = queue_row.name;
    end if;
  end loop;
end $$;
