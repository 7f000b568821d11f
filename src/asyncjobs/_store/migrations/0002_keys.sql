-- expand: code from version 1 on can work with this schema.
--
-- Two keys a job may have: one that at most one live job has, and one that at most so many running jobs have. Nearly all jobs
-- have neither, and pay nothing but a look at the index predicates.

alter table asyncjobs.live_jobs
  add column unique_key text collate "C",      -- at most one live job has it
  add column unique_to_start boolean,          -- true: until it is claimed; else until it is final
  add column lock_key text collate "C",        -- at most lock_slots running jobs have it
  add column lock_slots smallint check (lock_slots > 0),
  add check ((lock_key is null) = (lock_slots is null));

create unique index live_jobs_unique on asyncjobs.live_jobs (unique_key) where unique_key is not null;

-- Keys that are taken for a while, whatever becomes of the job. Only jobs with a window come here.
create table asyncjobs.unique_windows (
  unique_key text collate "C" primary key,
  job bigint,                                  -- who took it last; null: nobody, as one with the key was there already
  expires_at timestamptz not null
);
create index unique_windows_expires_at on asyncjobs.unique_windows (expires_at);
