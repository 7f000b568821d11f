-- expand: code from version 1 on can work with this schema.
--
-- Rates by key, over all processes: of the jobs with one rate_key, so many tokens begin in a time, each job with its weight.
--
-- A job is claimed like any other, and pays when it is about to begin (let_in), when it has all else that it needs: its lock, a place in
-- its queue. So nothing is paid that does not begin, but for who is told to stop or dies in that moment. Who finds too few tokens,
-- or somebody before it in line, waits *in the line of its key* (state 6): out of the ready index, its attempt given back, its lock let
-- go. A line is ordered by priority, time and id, and nobody passes the first of it: a light one does not overtake a heavy one.
--
-- Of each key a row says how many tokens are used, and when the first in line may have its own (due_at), an index of which is the
-- next alarm: runners sleep until then. Whoever wakes makes ready as many of the line as there are tokens (settle_rate), and those
-- are claimed and pay. To be made ready is a turn and no payment: tokens are counted in let_in alone, so whatever is made ready twice, or
-- comes between, or never comes, no rate is exceeded.
--
-- A rate is a bucket (0), a sliding window (1) or a fixed one (2). It counts by the clock of the database, and `paid_at` is when
-- the attempt began. What holds for a key is what the youngest of its jobs says that has asked.
--
-- No deadlock: queues are locked before rates, both in the order of their names, rates before locks; rows of live_jobs are skipped where
-- they are taken.

alter table asyncjobs.live_jobs
  add column rate_key text collate "C",        -- jobs that have it take their tokens from one rate
  add column rate_weight integer,              -- how many it takes
  add column rate_capacity integer,            -- the most tokens there are
  add column rate_per float8,                  -- seconds: of a bucket until it is full again, of a window its length
  add column rate_window smallint,             -- 0 a bucket, 1 a sliding window, 2 a fixed one
  add column promoted_at timestamptz,          -- when it was made ready; null when it has paid
  add column paid_at timestamptz,              -- when it took its tokens, in this attempt or the last one
  drop constraint live_jobs_state_check,
  add constraint live_jobs_state_check check (state between 0 and 6),   -- 6 in the line of its rate
  add check (case when rate_key is null then state <> 6
                  else (rate_weight > 0 and rate_capacity > 0 and rate_window between 0 and 2 and rate_per <= 3155760000::float8
                        and rate_per >= case rate_window when 0 then 0.000000001::float8 else 0.001::float8 end) is true end);

-- The lines, in each those of a queue one after the other.
create index live_jobs_rated on asyncjobs.live_jobs (rate_key, queue, priority, scheduled_at, id) where state = 6;
-- Who was made ready, and has not paid.
create index live_jobs_promoted on asyncjobs.live_jobs (rate_key) where state in (0, 4) and promoted_at is not null;

create table asyncjobs.rates (
  key text collate "C" primary key,            -- of a job; of a queue's rate 'queue:' and its name
  capacity integer not null,
  per float8 not null,
  "window" smallint not null,
  said_by bigint not null,                     -- the job whose word this is
  used float8 not null default 0,              -- tokens, at that moment; of a sliding window see rate_payments
  used_at timestamptz not null default clock_timestamp(),
  full_at timestamptz not null default clock_timestamp(),   -- nothing is used any more: the row says nothing
  due_at timestamptz,                          -- when the first in line may have its tokens; null: nobody is
  excess float8 not null default 0,            -- used of a larger bucket, before it became this one: it counts when it is said again …
  excess_until timestamptz not null default '-infinity',   -- … until then
  memory float8 not null default 0             -- seconds payments are kept: the longest sliding window there was
) with (
  fillfactor = 50, vacuum_truncate = off,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);
create index rates_due on asyncjobs.rates (due_at) where due_at is not null;

-- What was paid within a sliding window.
create table asyncjobs.rate_payments (
  key text collate "C" not null,
  paid_at timestamptz not null,
  tokens float8 not null
) with (
  vacuum_truncate = off,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);
create index rate_payments_key on asyncjobs.rate_payments (key, paid_at);

-- The kind of rate a limited queue has; `every` and `burst` say how much: burst tokens in every * burst seconds. (A bucket's
-- next_at is not asked any more.)
alter table asyncjobs.queues add column rate_window smallint not null default 0;

-- How many tokens of *rate* are used at a moment.
create function asyncjobs.tokens_used(rate asyncjobs.rates, moment timestamptz) returns float8 language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  if rate."window" = 0 then
    return greatest(0::float8, rate.used - greatest(0::float8, extract(epoch from moment - rate.used_at)::float8)
                                           * rate.capacity / rate.per);
  elsif rate."window" = 1 then
    return coalesce((select sum(payment.tokens) from asyncjobs.rate_payments payment
                      where payment.key = rate.key and payment.paid_at > moment - rate.per * interval '1 s'), 0::float8);
  end if;
  return case when date_bin(rate.per * interval '1 s', moment, timestamptz 'epoch') > rate.used_at then 0::float8 else rate.used end;
end $$;

-- When there will be so many tokens, if nobody takes any.
create function asyncjobs.tokens_at(rate asyncjobs.rates, moment timestamptz, wanted float8) returns timestamptz
  language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  missing float8 := wanted - (rate.capacity - asyncjobs.tokens_used(rate, moment));
begin
  if missing <= 0::float8 then
    return moment;
  elsif rate."window" = 0 then
    return moment + ceil(missing * rate.per / rate.capacity * 1000000::float8) * interval '1 us';
  elsif rate."window" = 1 then
    return coalesce(
      (select paid_at + rate.per * interval '1 s'
         from (select payment.paid_at, sum(payment.tokens) over (order by payment.paid_at) as freed
                 from asyncjobs.rate_payments payment
                where payment.key = rate.key and payment.paid_at > moment - rate.per * interval '1 s') payments
        where freed >= missing
        order by paid_at limit 1),
      moment + rate.per * interval '1 s');
  end if;
  return date_bin(rate.per * interval '1 s', moment, timestamptz 'epoch') + rate.per * interval '1 s';
end $$;

-- Lock the row of a rate, or make it; what a younger job says of it holds from now on. What was used stays used.
create function asyncjobs.hold_rate(wanted text, capacity integer, per float8, "window" smallint, teller bigint)
  returns asyncjobs.rates language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  rate asyncjobs.rates;
  moment timestamptz;
  total float8;
begin
  loop
    select * into rate from asyncjobs.rates where rates.key = wanted for update;
    exit when found;
    insert into asyncjobs.rates (key, capacity, per, "window", said_by)
    values (wanted, hold_rate.capacity, hold_rate.per, hold_rate."window", teller)
        on conflict (key) do nothing;
  end loop;
  moment := clock_timestamp();
  if rate.used_at > moment + interval '1 s' then  -- the clock was set back
    update asyncjobs.rate_payments set paid_at = moment where rate_payments.key = wanted and paid_at > moment;
    rate.used_at := moment;
    update asyncjobs.rates set used_at = moment where rates.key = wanted;
  end if;
  if teller > rate.said_by then
    if (rate.capacity, rate.per, rate."window") <> (hold_rate.capacity, hold_rate.per, hold_rate."window") then
      -- Two versions of the code may take turns for as long as a deploy lasts: what was used must neither be lost nor be new each time.
      total := asyncjobs.tokens_used(rate, moment) + case when moment < rate.excess_until then rate.excess else 0::float8 end;
      rate.memory := greatest(rate.memory, rate.per, hold_rate.per);
      if rate."window" = 0 or rate."window" <> hold_rate."window" then
        rate.used := least(total, hold_rate.capacity::float8);
        rate.excess := total - rate.used;
        rate.excess_until := moment + greatest(rate.per, hold_rate.per) * interval '1 s';
        rate.used_at := moment;
      end if;
      if rate."window" <> hold_rate."window" then
        delete from asyncjobs.rate_payments where rate_payments.key = wanted;
        if hold_rate."window" = 1 and rate.used > 0::float8 then
          insert into asyncjobs.rate_payments (key, paid_at, tokens) values (wanted, moment, rate.used);
        end if;
      end if;
      rate.capacity := hold_rate.capacity;
      rate.per := hold_rate.per;
      rate."window" := hold_rate."window";
      rate.full_at := moment + rate.memory * interval '1 s';
    end if;
    rate.said_by := teller;
    update asyncjobs.rates
       set said_by = rate.said_by, capacity = rate.capacity, per = rate.per, "window" = rate."window",
           used = rate.used, used_at = rate.used_at, full_at = rate.full_at,
           excess = rate.excess, excess_until = rate.excess_until, memory = rate.memory
     where rates.key = wanted;
  end if;
  return rate;
end $$;

-- Note what was paid of a sliding window. Of a large one, whose payments are summed up each time, those of a thousandth of it
-- are one, the later: its tokens come back up to that much later, and never too early.
create function asyncjobs.note_payment(rate asyncjobs.rates, moment timestamptz, amount float8) returns void language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  moment_of_all timestamptz := moment;
  slot interval := rate.per / 1000::float8 * interval '1 s';
begin
  if rate.capacity > 2000 and slot >= interval '1 ms' then
    moment_of_all := date_bin(slot, moment, timestamptz 'epoch') + slot;
    update asyncjobs.rate_payments set tokens = tokens + amount where key = rate.key and paid_at = moment_of_all;
    if found then
      return;
    end if;
  end if;
  insert into asyncjobs.rate_payments (key, paid_at, tokens) values (rate.key, moment_of_all, amount);
end $$;

-- Take tokens from a rate whose row is locked. What is paid of a sliding window is said in rate_payments by who pays.
create function asyncjobs.pay_rate(rate asyncjobs.rates, amount float8, moment timestamptz) returns void language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  now_used float8 := asyncjobs.tokens_used(rate, moment) + amount;
begin
  if rate."window" = 1 then
    delete from asyncjobs.rate_payments where key = rate.key and paid_at <= moment - greatest(rate.per, rate.memory) * interval '1 s';
  end if;
  update asyncjobs.rates
     set used = now_used, used_at = moment,
         full_at = case rate."window"
           when 0 then moment + now_used * rate.per / rate.capacity * interval '1 s'
           when 1 then moment + (greatest(rate.per, rate.memory) + 1::float8) * interval '1 s'
           else date_bin(rate.per * interval '1 s', moment, timestamptz 'epoch') + rate.per * interval '1 s' end
   where rates.key = rate.key;
end $$;

-- Make ready as many of the line of a key as there are tokens for, and say when the next one is due. Returns their lanes.
--
-- Where tokens come one after the other, this is done a moment before they are there, so that who waits can be claimed meanwhile.
-- Those that were made ready a moment ago and have not paid count as if they had: who is not claimed in ten seconds counts no more.
-- One whose queue is paused, or full, is passed over, and looked for again every two seconds; one of a lane in which others were made
-- ready and nobody came for them in ten (its runners are down, or nobody knows the kind) comes after all others, once in ten.
-- Where tokens come one by one, and quickly, they gather a moment, of which nothing is lost: one round for each would be too many.
create function asyncjobs.settle_rate(wanted text) returns table (queue_name text, kind_name text) language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  rate asyncjobs.rates;
  ready record;
  heir record;
  moment timestamptz;
  ahead interval;                              -- the moment
  coming float8 := 0;                          -- tokens of those that are about to pay
  remaining float8;
  gather float8;
  due timestamptz;
  closed text[] := asyncjobs.closed_queues(0);
  forsaken text[] := '{}';                     -- lanes in which some were made ready that nobody claims …
  resting text[] := '{}';                      -- … and others just now
  skipped text[];
  woken text[] := '{}';
begin
  select * into rate from asyncjobs.rates where rates.key = wanted for update;
  if not found then
    return;
  end if;
  moment := clock_timestamp();
  for ready in
    select queue || E'\n' || kind as lane, bool_or(state = 0 and runner is null and promoted_at <= moment - interval '10 s') as waits_long,
           bool_or(promoted_at > moment - interval '10 s') as is_new,
           sum(case when promoted_at > moment - case state when 4 then interval '1 min' else interval '10 s' end
                    then least(rate_weight, rate.capacity) end) as tokens
      from asyncjobs.live_jobs
     where state in (0, 4) and promoted_at is not null and rate_key = wanted and queue <> all (closed)
     group by 1
  loop
    if not ready.waits_long then
      coming := coming + coalesce(ready.tokens, 0)::float8;
      continue;
    end if;
    forsaken := forsaken || ready.lane;
    if ready.is_new then
      resting := resting || ready.lane;
    end if;
  end loop;
  skipped := forsaken;
  ahead := case rate."window" when 2 then interval '0' else interval '10 ms' end;
  remaining := rate.capacity - asyncjobs.tokens_used(rate, moment + ahead) - coming;
  loop
    with recursive lined as (
      (select queue from asyncjobs.live_jobs where state = 6 and rate_key = wanted order by rate_key, queue limit 1)
      union all
      select following.queue
        from lined
       cross join lateral (
         select queue from asyncjobs.live_jobs
          where state = 6 and rate_key = wanted and queue > lined.queue
          order by rate_key, queue limit 1) following
    )
    select first.* into heir
      from lined
     cross join lateral (
       select id, queue, kind, crashes, least(rate_weight, rate.capacity) as weight, priority, scheduled_at
         from asyncjobs.live_jobs
        where state = 6 and rate_key = wanted and live_jobs.queue = lined.queue
          and (live_jobs.queue || E'\n' || live_jobs.kind) <> all (skipped)
        order by rate_key, live_jobs.queue, priority, scheduled_at, id limit 1
          for update skip locked) first
     where lined.queue <> all (closed)
     order by priority, scheduled_at, id limit 1;
    if not found and skipped <> resting then
      skipped := resting;
      continue;
    end if;
    exit when not found or heir.weight > remaining;
    update asyncjobs.live_jobs
       set state = case when heir.crashes > 0 then 4 else 0 end, promoted_at = moment
     where id = heir.id;
    remaining := remaining - heir.weight;
    coming := coming + heir.weight;
    if heir.queue <> all (woken) then
      woken := woken || heir.queue;
      perform asyncjobs.wake(heir.queue);
    end if;
    queue_name := heir.queue;
    kind_name := heir.kind;
    return next;
  end loop;
  if heir.id is not null then
    gather := case rate."window"
      when 0 then greatest(0.003::float8, least(0.1::float8, (rate.capacity - heir.weight) * rate.per / rate.capacity / 2::float8))
      when 1 then greatest(0.003::float8, least(0.05::float8, rate.per * 0.001::float8))
      else 0::float8 end;
    due := least(greatest(asyncjobs.tokens_at(rate, moment, coming + heir.weight) - ahead + gather * interval '1 s',
                          moment + interval '1 ms'),
                 moment + case when coming > 0::float8 then interval '10 s' else interval '1 min' end);   -- whatever others do
  end if;
  if exists (select from asyncjobs.live_jobs where state = 6 and rate_key = wanted and queue = any (closed)) then
    due := least(due, moment + interval '2 s');
  elsif due is null and exists (select from asyncjobs.live_jobs where state = 6 and rate_key = wanted) then
    due := moment + case when resting = '{}' then interval '2 s' else interval '10 s' end;
  end if;
  update asyncjobs.rates set due_at = due where rates.key = wanted and due_at is distinct from due;
end $$;

-- The rates that are due, the longest due first: the lanes in which more jobs lie ready.
create function asyncjobs.promote_rates(most integer) returns table (queue_name text, kind_name text) language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  wanted text;
begin
  for wanted in
    select key from asyncjobs.rates where due_at <= clock_timestamp() order by due_at limit most for update skip locked
  loop
    return query select * from asyncjobs.settle_rate(wanted);
  end loop;
end $$;

-- In how many seconds the next rate is due; null: nobody waits.
create function asyncjobs.rates_due() returns float8 language sql volatile set search_path = pg_catalog, pg_temp as $$
  select extract(epoch from due_at - clock_timestamp())::float8
    from asyncjobs.rates where due_at is not null order by due_at limit 1
$$;

-- One has left the line of this key, and who is behind it may need less.
create function asyncjobs.hurry_rate(wanted text) returns void language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  if current_setting('transaction_isolation') = 'read committed' then
    update asyncjobs.rates set due_at = clock_timestamp() where key = wanted and due_at > clock_timestamp();
  end if;
end $$;

-- Let claimed jobs begin: those of limited queues as many as there are places and tokens, those with a rate when they can pay.
--
-- At most so many begin now; the verdict for each is 'held', 'later' (it might, and has paid nothing), or 'blocked': it waits in line, and
-- is nobody's. One that is held may have to wait some milliseconds until it begins, when the tokens are there that it has
-- paid with: where they come one after the other none is lost with the way to the runner. Of jobs that are missing in the answer nothing is known: they go back. The last row, of no job, says in how many
-- seconds one that waits for one of these rates is due.
-- Where one has to wait, those of its rate go with it that lie ready behind it in its lane, unless they had their turn: they would be
-- claimed for nothing.
create function asyncjobs.let_in(ids bigint[], tokens bigint[], incarnation bigint, beginning integer)
  returns table (job_id bigint, verdict text, seconds float8) language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  asked record;
  mine record;
  narrow text[] := '{}';                       -- the limited queues …
  most integer[] := '{}';                      -- … how many may run in each …
  places integer[] := '{}';                    -- … and how many more
  held asyncjobs.rates[] := '{}';
  keys text[] := '{}';
  remaining float8[] := '{}';                  -- tokens, by key …
  ahead float8[] := '{}';                      -- … and those that come in a moment
  taken float8[] := '{}';                      -- by those who were looked at
  paid float8[] := '{}';
  short boolean[] := '{}';                     -- one had too few: nobody overtakes it
  moment timestamptz;
  closed text[];
  of_queue integer;
  by_queue integer;                            -- whose rate is the queue's
  by_key integer;
  weight float8;
  admitted bigint[] := '{}';
  begins timestamptz[] := '{}';                -- when each of them does
  begins_at timestamptz;
  refused bigint[] := '{}';
  lanes text[] := '{}';                        -- from which those behind have gone
begin
  for asked in
    select name, concurrency
      from asyncjobs.queues
     where (concurrency is not null or every is not null)
       and name = any (array(select queue from asyncjobs.live_jobs where id = any (ids)))
     order by name
       for update
  loop
    narrow := narrow || asked.name;
    most := most || asked.concurrency;
    -- Where the limit was lowered more may run than there are places, and one that is free counts for nothing.
    places := places || asked.concurrency - (select count(*) from asyncjobs.locks where key = 'queue:' || asked.name)::integer;
  end loop;
  for asked in
    select *
      from (select distinct on (rate_key) rate_key as name, rate_capacity, rate_per, rate_window, id as teller
              from asyncjobs.live_jobs
             where id = any (ids) and runner = incarnation and rate_key is not null
             order by rate_key, id desc) of_jobs
     union all
    select 'queue:' || name, burst, every * burst, rate_window, 0 from asyncjobs.queues where name = any (narrow) and every is not null
     order by 1
  loop
    held := held || asyncjobs.hold_rate(asked.name, asked.rate_capacity, asked.rate_per, asked.rate_window, asked.teller);
    keys := keys || asked.name;
    paid := paid || 0::float8;
    short := short || false;
  end loop;
  moment := clock_timestamp();
  for nth in 1..cardinality(keys) loop
    remaining := remaining || (held[nth].capacity - asyncjobs.tokens_used(held[nth], moment));
    ahead := ahead || case when held[nth]."window" = 2 then remaining[nth]
                           else held[nth].capacity - asyncjobs.tokens_used(held[nth], moment + interval '10 ms') end;
    taken := taken || 0::float8;
  end loop;
  closed := asyncjobs.closed_queues(0);

  for mine in
    select id, token, queue, kind, priority, scheduled_at, rate_key, rate_weight, promoted_at
      from asyncjobs.live_jobs
     where id = any (ids) and runner = incarnation and token = tokens[width_bucket(id, ids)] and not cancel_requested
     order by priority, scheduled_at, id
       for update skip locked
  loop
    of_queue := pg_catalog.array_position(narrow, mine.queue);
    by_queue := pg_catalog.array_position(keys, 'queue:' || mine.queue);
    by_key := case when mine.rate_key is not null then pg_catalog.array_position(keys, mine.rate_key) end;
    continue when places[of_queue] < 1 or remaining[by_queue] < 1::float8;
    job_id := mine.id;
    seconds := null;
    begins_at := moment;
    if by_key is not null then
      weight := least(mine.rate_weight, held[by_key].capacity)::float8;
      short[by_key] := short[by_key] or ahead[by_key] < weight;
      if short[by_key] or mine.promoted_at is null and exists (
        with recursive lined as (
          (select queue from asyncjobs.live_jobs where state = 6 and rate_key = mine.rate_key order by rate_key, queue limit 1)
          union all
          select following.queue
            from lined
           cross join lateral (
             select queue from asyncjobs.live_jobs
              where state = 6 and rate_key = mine.rate_key and queue > lined.queue
              order by rate_key, queue limit 1) following
        )
        select
          from lined
         cross join lateral (
           select from asyncjobs.live_jobs
            where state = 6 and rate_key = mine.rate_key and live_jobs.queue = lined.queue
              and (priority, scheduled_at, id) < (mine.priority, mine.scheduled_at, mine.id)
            limit 1) earlier
         where lined.queue <> all (closed))
      then
        refused := refused || mine.id;
        verdict := 'blocked';
        return next;
        if mine.queue || E'\n' || mine.kind <> all (lanes) then
          lanes := lanes || (mine.queue || E'\n' || mine.kind);
          update asyncjobs.live_jobs
             set state = 6
           where id = any (array(
                   select id
                     from asyncjobs.live_jobs
                    where id = any (array(
                            select id
                              from (select id, rate_key, promoted_at
                                      from asyncjobs.live_jobs
                                     where queue = mine.queue and kind = mine.kind and state = 0 and runner is null
                                       and (priority, scheduled_at, id) > (mine.priority, mine.scheduled_at, mine.id)
                                     order by queue, kind, priority, scheduled_at, id limit 500) behind
                             where rate_key = mine.rate_key and promoted_at is null))
                      and state = 0 and runner is null
                      -- To whom a lock was handed over lets it go when it is refused itself.
                      and (lock_key is null or not exists (select from asyncjobs.locks where job = live_jobs.id))
                      for update skip locked));
        end if;
        continue;
      end if;
      taken[by_key] := taken[by_key] + weight;
      if remaining[by_key] < weight then
        -- Who paid a sliding window before it in this statement is counted there already.
        begins_at := greatest(moment, asyncjobs.tokens_at(
          held[by_key], moment, case held[by_key]."window" when 1 then weight else taken[by_key] end));
        seconds := extract(epoch from begins_at - moment)::float8;
      end if;
      remaining[by_key] := remaining[by_key] - weight;
      ahead[by_key] := ahead[by_key] - weight;
    end if;
    if cardinality(admitted) >= beginning then
      verdict := 'later';
      return next;
      continue;
    end if;
    if most[of_queue] is not null then
      insert into asyncjobs.locks (key, slot, job, token)
      select 'queue:' || mine.queue, free.slot, mine.id, mine.token
        from generate_series(1, most[of_queue]) free (slot)
       where not exists (select from asyncjobs.locks other where other.key = 'queue:' || mine.queue and other.slot = free.slot)
       order by free.slot limit 1
          on conflict (key, slot) do nothing;
      if not found then
        continue;  -- its tokens are not asked for in this statement any more
      end if;
      places[of_queue] := places[of_queue] - 1;
    end if;
    if by_queue is not null then
      remaining[by_queue] := remaining[by_queue] - 1::float8;
      paid[by_queue] := paid[by_queue] + 1::float8;
    end if;
    if by_key is not null then
      paid[by_key] := paid[by_key] + weight;
    end if;
    if held[by_key]."window" = 1 then
      perform asyncjobs.note_payment(held[by_key], begins_at, weight);
    end if;
    if held[by_queue]."window" = 1 then
      perform asyncjobs.note_payment(held[by_queue], moment, 1::float8);
    end if;
    admitted := admitted || mine.id;
    begins := begins || begins_at;
    verdict := 'held';
    return next;
  end loop;

  update asyncjobs.live_jobs
     set unique_key = case when unique_to_start then null else unique_key end,
         limited = case when queue = any (narrow) and most[pg_catalog.array_position(narrow, queue)] is not null then true else limited end,
         paid_at = case when rate_key is not null then begins[pg_catalog.array_position(admitted, id)] end,
         started_at = case when rate_key is not null and started_at is not null then begins[pg_catalog.array_position(admitted, id)]
                           else started_at end,
         promoted_at = null
   where id = any (admitted)
     and (rate_key is not null or unique_to_start and unique_key is not null or most[pg_catalog.array_position(narrow, queue)] is not null);
  if cardinality(refused) > 0 then
    update asyncjobs.live_jobs
       set state = 6, runner = null, started_at = null, attempt = attempt - 1, promoted_at = null
     where id = any (refused);
    perform asyncjobs.let_go(id) from asyncjobs.live_jobs where id = any (refused) and lock_key is not null order by id;
  end if;
  for nth in 1..cardinality(keys) loop
    if paid[nth] > 0::float8 then
      perform asyncjobs.pay_rate(held[nth], paid[nth], moment);
    end if;
    if left(keys[nth], 6) <> 'queue:' then
      perform asyncjobs.settle_rate(keys[nth]);
    end if;
  end loop;
  job_id := null;
  verdict := null;
  seconds := (select extract(epoch from min(due_at) - clock_timestamp())::float8 from asyncjobs.rates where key = any (keys));
  return next;
end $$;

-- For code of yesterday.
create or replace function asyncjobs.admit_jobs(ids bigint[], tokens bigint[], incarnation bigint)
  returns setof bigint language sql volatile set search_path = pg_catalog, pg_temp as $$
  select job_id from asyncjobs.let_in(ids, tokens, incarnation, cardinality(ids)) where verdict = 'held'
$$;

-- Lines nobody is to look at, as after a stranger's statement: they are looked at. Returns how many.
create function asyncjobs.sweep_rates() returns integer language plpgsql volatile
  set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  forgotten record;
  found_so_far integer := 0;
begin
  for forgotten in
    with recursive lined as (
      (select rate_key, rate_capacity, rate_per, rate_window, id from asyncjobs.live_jobs
        where state = 6 and rate_key >= '' order by rate_key limit 1)
      union all
      select following.*
        from lined
       cross join lateral (
         select rate_key, rate_capacity, rate_per, rate_window, id from asyncjobs.live_jobs
          where state = 6 and rate_key > lined.rate_key order by rate_key limit 1) following
    )
    select * from lined
     where not exists (select from asyncjobs.rates where key = lined.rate_key and due_at < clock_timestamp() + interval '2 min')
     order by rate_key
  loop
    perform asyncjobs.hold_rate(forgotten.rate_key, forgotten.rate_capacity, forgotten.rate_per, forgotten.rate_window, forgotten.id);
    perform asyncjobs.settle_rate(forgotten.rate_key);
    found_so_far := found_so_far + 1;
  end loop;
  return found_so_far;
end $$;

-- What people see: as before, and who waits in the line of a rate is blocked.
create or replace view asyncjobs.jobs as
  select id, kind, method, queue,
         case state when 0 then case when runner is null then 'available' else 'running' end
                    when 1 then 'scheduled' when 2 then 'retryable' when 3 then 'blocked' when 6 then 'blocked'
                    else 'available' end as state,
         priority, attempt, max_attempts, crashes, args, meta, tags,
         created_at, scheduled_at, started_at, null::timestamptz as finished_at,
         runner, null::jsonb as result, null::text as result_error, errors
    from asyncjobs.live_jobs
   where id > 0                                -- the planner's ballast has negative ids
  union all
  select id, kind, method, queue,
         case state when 10 then 'completed' when 11 then 'skipped' when 12 then 'cancelled' else 'failed' end,
         priority, attempt, max_attempts, crashes, args, meta, tags,
         created_at, scheduled_at, started_at, finished_at,
         runner, result, result_error, errors
    from asyncjobs.finished_jobs;

-- The rates of which something is used or somebody waits for: how many tokens are left, and when the first in line may begin.
create view asyncjobs.rate_limits as
  select case when left(key, 6) = 'queue:' then substr(key, 7) end as queue, key, capacity, per as seconds,
         case "window" when 0 then 'bucket' when 1 then 'sliding' else 'fixed' end as "window",
         floor(capacity::float8 - asyncjobs.tokens_used(rates, clock_timestamp()))::integer as tokens_left,
         (select count(*) from asyncjobs.live_jobs where state = 6 and rate_key = rates.key) as waiting,
         due_at
    from asyncjobs.rates;
