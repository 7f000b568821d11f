-- The schema and the table of its versions; harmless when they are there.
create schema if not exists asyncjobs;
create table if not exists asyncjobs.migrations (
  version integer primary key,
  name text not null,
  oldest_code integer not null,                -- code with an older schema version than this can no longer work here
  applied_at timestamptz not null default now()
);
