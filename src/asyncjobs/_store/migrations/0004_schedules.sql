-- expand: code from version 1 on can work with this schema.
--
-- What repeats. A row says when, what, and until when its ticks are dealt with; whoever deals with one locks the row, stores the
-- job and moves `passed_until` on, in one transaction. So there is one job for a tick however many processes try, and nobody leads.

create table asyncjobs.schedules (
  name text collate "C" primary key,
  owner text collate "C",                      -- the application whose code declares it; null: it was created at run time
  cron text collate "C",                       -- when: a cron expression on the clock of a time zone …
  timezone text collate "C" not null,
  every double precision check (every > 0::double precision),   -- … or every so many seconds, counted from 1970
  job jsonb not null,                          -- what: a new job, as code has it
  missed text collate "C" not null check (missed in ('skip', 'one', 'all')),
  missed_within double precision,              -- seconds; null: however long ago
  overlap text collate "C" not null check (overlap in ('allow', 'skip', 'queue')),
  jitter double precision not null,            -- seconds its jobs are due after the tick, at most
  passed_until timestamptz not null,           -- every tick until then has its job, or is to have none
  last_tick timestamptz,                       -- the last that has …
  last_job bigint,                             -- … and which
  unfinished bigint[] not null default '{}',   -- its jobs that may be live; kept only where overlap is not allowed
  created_at timestamptz not null default clock_timestamp(),
  paused_at timestamptz,
  check ((cron is null) <> (every is null)),
  check (octet_length(name) <= 480)
);
