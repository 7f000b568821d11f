-- expand: code from version 1 on can work with this schema.
--
-- Live jobs and finished jobs are two tables. The live one is small and hot; the finished one is only appended to.
-- The claim touches columns that are in no index and no index predicate (runner, token, attempt, started_at), so it is
-- a HOT update: a claimed row stays where it is in the ready index and is passed over because it has a runner. Half of
-- each page is kept free (fillfactor) for the second version of every row a batch claims. Finishing deletes the row.
-- Measured against a state column in the index: 2.3 times the rate at half the WAL.

create table asyncjobs.live_jobs (
  id bigint generated always as identity primary key,
  scheduled_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  started_at timestamptz,                      -- of the running attempt; null while it is claimed but not yet begun
  runner bigint,                               -- the incarnation that holds the job; null: nobody
  token bigint not null default 0,             -- rises with every claim and never falls; with (id, runner) the fence
  priority smallint not null default 0,        -- lower runs sooner inside a queue
  attempt smallint not null default 0,         -- for people: given back on release and snooze
  max_attempts smallint not null default 10,
  crashes smallint not null default 0,         -- how many runners died while they ran it
  state smallint not null default 0            -- 0 ready (running when it has a runner), 1 scheduled, 2 retryable, 3 blocked,
    check (state between 0 and 4),             -- 4 ready and suspected of killing runners: to run alone
  awaited boolean not null default false,      -- somebody waits for the result: finishing notifies
  cancel_requested boolean not null default false,
  queue text collate "C" not null,
  kind text collate "C" not null,
  method text,
  args jsonb not null,
  meta jsonb,
  tags text[],
  options jsonb,                               -- timeout and backoff, when given for this one job
  errors jsonb,                                -- of failed attempts, oldest first, bounded
  check (runner is null or state = 0),
  check (crashes = 0 or state <> 0 or runner is not null),   -- a suspect never waits among the others …
  -- Who may only insert cannot stop those who run: they could not read other moments, nor notify of a longer name.
  check (least(scheduled_at, created_at) >= timestamptz '0001-01-01 00:00+00'
         and greatest(scheduled_at, created_at) < timestamptz '10000-01-01 00:00+00'),
  check (octet_length(queue) <= 480)
) with (
  fillfactor = 50,
  vacuum_truncate = off,                       -- no exclusive lock, and the planner never sees a table of zero pages
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000
);

-- The claim walks one lane (queue, kind) in order, so that jobs of kinds this process does not know cost it nothing.
create index live_jobs_ready on asyncjobs.live_jobs (queue, kind, priority, scheduled_at, id) where state = 0;
-- What is due later is out of the claim's way, and the first entry is the next alarm.
create index live_jobs_due on asyncjobs.live_jobs (scheduled_at) where state in (1, 2);
-- … but here, the least suspected first. Empty as a rule, and out of the way of every claim.
create index live_jobs_suspected on asyncjobs.live_jobs (crashes, priority, scheduled_at, id) where state = 4;

create table asyncjobs.finished_jobs (
  id bigint primary key,
  finished_at timestamptz not null,
  created_at timestamptz not null,
  scheduled_at timestamptz not null,
  started_at timestamptz,
  runner bigint,
  token bigint not null,
  priority smallint not null,
  attempt smallint not null,
  max_attempts smallint not null,
  crashes smallint not null,
  state smallint not null check (state between 10 and 14),   -- 10 completed, 11 skipped, 12 cancelled, 13 failed, and
                                               -- 14 failed because it took runners down: kept until somebody decides
  queue text collate "C" not null,
  kind text collate "C" not null,
  method text,
  args jsonb not null,
  meta jsonb,
  tags text[],
  options jsonb,
  errors jsonb,
  result jsonb,
  result_error text                            -- why the result of a completed job could not be stored
);
create index finished_jobs_finished_at on asyncjobs.finished_jobs using brin (finished_at)
  with (pages_per_range = 16, autosummarize = on);

-- One row per incarnation of a runner: a new one per start, and whenever it lost its server.
create table asyncjobs.runners (
  incarnation bigint primary key,
  lock_key integer not null,                   -- objid of the session advisory lock that proves the process alive
  holds_lock boolean not null,                 -- false behind a pooler: then the lease alone decides
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  lease interval not null,
  begun bigint[] not null default '{}',        -- prefetched jobs it has begun; written once per batch, before they begin
  begun_tokens bigint[] not null default '{}', -- and under which token each: one that went back and was claimed again has not
  name text not null,
  version text not null,
  accused boolean not null default false,      -- it is dead, and a suspect it had begun was to blame: nobody else is
  info jsonb not null default '{}'
) with (fillfactor = 20);

-- One row: whose turn it is to run a suspect alone. Its lock lets one claim at a time look whether a suspect runs.
create table asyncjobs.solitude (
  only_row boolean primary key default true check (only_row),
  job bigint,                                  -- the suspect that was claimed last …
  token bigint,                                -- … and under which token: it runs as long as that claim is held
  closed_until timestamptz not null default '-infinity',    -- a busy runner takes no jobs meanwhile, to become empty
  patience double precision not null default 2 -- seconds the next one to try may take; twice as many after each try in vain
);
insert into asyncjobs.solitude default values;

-- Whether a suspect runs, anywhere, that must be alone: one that has been for so many seconds need not be any longer, unless
-- the next crash would fail it. Volatile: it sees what was committed until it is called. Not a join: a planner that takes the one
-- row for a thousand would read all jobs.
create function asyncjobs.suspect_runs(alone float8, max_crashes integer) returns boolean language sql volatile as $$
  select exists (
    select from asyncjobs.live_jobs
     where id = (select job from asyncjobs.solitude) and token = (select token from asyncjobs.solitude)
       and runner is not null
       and (crashes + 1 >= max_crashes or started_at > clock_timestamp() - alone * interval '1 s'))
$$;

create table asyncjobs.queues (
  name text collate "C" primary key,
  paused_at timestamptz
);

-- Append to the errors of a job, which keep the last twenty.
create function asyncjobs.remember(errors jsonb, error jsonb) returns jsonb language sql stable as $$
  select case
    when error is null then errors
    when jsonb_array_length(coalesce(errors, '[]')) >= 20 then errors - 0 || jsonb_build_array(error || jsonb_build_object('at', now()))
    else coalesce(errors, '[]') || jsonb_build_array(error || jsonb_build_object('at', now()))
  end
$$;

-- Notify, unless the server's queue of notifications is half full, because some listener does not read: when it is full,
-- every transaction that notifies fails at its commit, the application's too. Nor where the session says that it must not,
-- as before PREPARE TRANSACTION. Whoever would have been told finds out by looking. An expression, to be inlined.
create function asyncjobs.notify(channel text, payload text) returns text language sql volatile as $$
  select case
    when current_setting('asyncjobs_session.notify', true) = 'off' or pg_notification_queue_usage() >= 0.5 then null
    else pg_notify(channel, payload)::text
  end
$$;

-- Wake an idle runner, and only then: NOTIFY holds a database-wide lock until its transaction has committed, so sending
-- it always would serialise all enqueuing. An idle runner holds a shared advisory lock on its queue (or on '' for every
-- queue); the exclusive lock is refused exactly then. Taken and released within one call, so it is safe behind a pooler.
-- An expression and nothing more, so that Postgres inlines it: a plpgsql function costs each transaction 50 µs.
-- The number is 'ajwi', asyncjobs wakes the idle; null when nobody had to be woken.
create function asyncjobs.wake(queue text) returns text language sql volatile as $$
  select case
    when not pg_try_advisory_lock(1634364777, hashtext('asyncjobs:' || queue))
      then asyncjobs.notify('asyncjobs:ready', queue)
    when not (pg_advisory_unlock(1634364777, hashtext('asyncjobs:' || queue))
              and pg_try_advisory_lock(1634364777, hashtext('asyncjobs:')))
      then asyncjobs.notify('asyncjobs:ready', queue)
    when pg_advisory_unlock(1634364777, hashtext('asyncjobs:')) then null
  end
$$;

-- What people see: live and finished jobs as one relation, in the words of the documentation.
create view asyncjobs.jobs as
  select id, kind, method, queue,
         case state when 0 then case when runner is null then 'available' else 'running' end
                    when 1 then 'scheduled' when 2 then 'retryable' when 3 then 'blocked' else 'available' end as state,
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
