-- expand: code from version 1 on can work with this schema.
--
-- Who wants to hear of what: an event that is published becomes one job for each row that matches, in the publisher's
-- transaction. The rows belong to applications, which need not know one another.

create table asyncjobs.subscriptions (
  app text collate "C" not null,
  name text collate "C" not null,
  event text collate "C",                      -- the one name it is for …
  pattern text collate "C",                    -- … or a pattern of names, for LIKE …
  regex text collate "C",                      -- … or a regular expression
  matchers jsonb,                              -- what attributes must be, all of it: {} matches nothing, null everything
  kind text collate "C" not null,
  method text,
  queue text collate "C" not null,
  priority smallint not null,
  max_attempts smallint not null,
  tags text[],
  meta jsonb,
  options jsonb,
  since timestamptz not null default now(),
  declared_at timestamptz not null default clock_timestamp(),   -- last, by a process whose code has it
  primary key (app, name),
  check ((event is not null)::integer + (pattern is not null)::integer + (regex is not null)::integer = 1),
  check (octet_length(queue) <= 480)
) with (fillfactor = 50);
create index subscriptions_event on asyncjobs.subscriptions (event);

-- One row: the last minute of which a heartbeat was published.
create table asyncjobs.heartbeat (
  only_row boolean primary key default true check (only_row),
  minute timestamptz
);
insert into asyncjobs.heartbeat default values;
