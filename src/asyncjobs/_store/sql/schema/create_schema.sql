-- The schema and the table of its versions; harmless when they are there.
-- Asked for only when missing: `create … if not exists` demands the right to create even where nothing is to be created,
-- and an application's role may have been given the schema without it.
do $$ begin
  if not exists (select from pg_namespace where nspname || ':' = 'asyncjobs:') then
    create schema asyncjobs;
  end if;
  if to_regclass('asyncjobs.migrations') is null then
    create table asyncjobs.migrations (
      version integer primary key,
      name text not null,
      oldest_code integer not null,            -- code with an older schema version than this can no longer work here
      applied_at timestamptz not null default now()
    );
  end if;
end $$;
