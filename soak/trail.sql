-- What happened to each job's row, written in the transaction in which it happened; and who the runners were.
create schema soak;

create table soak.sent (key text not null);
create table soak.effects (key text not null, job bigint not null, token bigint not null);

create table soak.trail (
  n bigint generated always as identity,
  at timestamptz not null default clock_timestamp(),
  xid bigint not null default pg_current_xact_id()::text::bigint,
  job bigint not null, kind text not null, queue text not null,
  priority smallint not null, due timestamptz not null,
  was_state smallint, was_runner bigint, was_token bigint, was_attempt smallint, was_cancel boolean,
  state smallint not null, runner bigint, token bigint not null, attempt smallint not null, crashes smallint not null,
  cancel boolean not null
);

create function soak.note_live() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into soak.trail (job, kind, queue, priority, due, state, runner, token, attempt, crashes, cancel)
    values (new.id, new.kind, new.queue, new.priority, new.scheduled_at,
            new.state, new.runner, new.token, new.attempt, new.crashes, new.cancel_requested);
  else
    insert into soak.trail (job, kind, queue, priority, due, was_state, was_runner, was_token, was_attempt, was_cancel,
                            state, runner, token, attempt, crashes, cancel)
    values (new.id, new.kind, new.queue, new.priority, new.scheduled_at,
            old.state, old.runner, old.token, old.attempt, old.cancel_requested,
            new.state, new.runner, new.token, new.attempt, new.crashes, new.cancel_requested);
  end if;
  return null;
end $$;

create function soak.note_finished() returns trigger language plpgsql as $$
begin
  insert into soak.trail (job, kind, queue, priority, due, state, runner, token, attempt, crashes, cancel)
  values (new.id, new.kind, new.queue, new.priority, new.scheduled_at,
          new.state, new.runner, new.token, new.attempt, new.crashes, false);
  return null;
end $$;

create trigger soak after insert or update on asyncjobs.live_jobs
  for each row when (new.id > 0) execute function soak.note_live();
create trigger soak after insert on asyncjobs.finished_jobs
  for each row execute function soak.note_finished();

create table soak.incarnations (
  at timestamptz not null default clock_timestamp(),
  incarnation bigint not null, pid integer not null, holds_lock boolean not null, gone boolean not null
);

create function soak.note_runner() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into soak.incarnations (incarnation, pid, holds_lock, gone)
    values (new.incarnation, (new.info->>'pid')::integer, new.holds_lock, false);
  else
    insert into soak.incarnations (incarnation, pid, holds_lock, gone)
    values (old.incarnation, (old.info->>'pid')::integer, old.holds_lock, true);
  end if;
  return null;
end $$;

create trigger soak after insert or delete on asyncjobs.runners for each row execute function soak.note_runner();
