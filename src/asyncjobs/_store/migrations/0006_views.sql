-- expand: code from version 1 on can work with this schema.
--
-- What others may call and read: `enqueue` for any language, driver or trigger, and three views with the columns that
-- those who come from delayed_job and Que know.

-- Whether this is a name of a queue, kind or tag: 1 to 120 characters, none of them a control character, not only blanks.
-- The rule of `check_name` in Python.
create function asyncjobs.is_name(value text) returns boolean language sql immutable parallel safe as $$
  select value is not null
     and value collate "C" ~ '^[^\u0001-\u001f\u007f-\u009f\u2028\u2029]{1,120}$'
     and value collate "C" !~ '^[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]*$'
$$;

-- Store one job in the caller's transaction, and wake an idle runner when it commits: what `later` does.
--
-- With the rights of who calls it, who needs what an enqueuer is granted. What a class says of its jobs is known to the code
-- alone: a queue, priority or max_attempts other than the defaults is said here. The words of *options* are those of `later`:
-- method, queue, priority, max_attempts, delay (seconds), at (ISO 8601 with an offset), tags, meta, timeout (seconds or null).
create function asyncjobs.enqueue(kind text, args jsonb default '{}', options jsonb default '{}') returns bigint
  language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  a_century constant numeric := 3155760000;
  word text;
  value jsonb;
  method text;
  queue text := 'default';
  priority smallint := 0;
  max_attempts smallint := 10;
  due timestamptz;
  delay float8;
  tags text[];
  meta jsonb;
  kept jsonb;
  job bigint;
begin
  if not asyncjobs.is_name(enqueue.kind) then
    raise invalid_parameter_value using
      message = 'kind is not a name; use 1 to 120 characters, no control characters',
      hint = 'A kind is module:Class or module:function, or what kind= says where the job is defined.';
  end if;
  if jsonb_typeof(enqueue.args) is distinct from 'object' then
    raise invalid_parameter_value using
      message = 'args is not a JSON object of the inputs by their names, as in {"user_id": 42}';
  end if;
  if jsonb_typeof(enqueue.options) is distinct from 'object' then
    raise invalid_parameter_value using message = 'options is not a JSON object, as in {"queue": "mail", "delay": 60}';
  end if;
  for word, value in select each.key, each.value from jsonb_each(enqueue.options) each loop
    case word
      when 'queue' then
        queue := value #>> '{}';
        if jsonb_typeof(value) <> 'string' or not asyncjobs.is_name(queue) then
          raise invalid_parameter_value using
            message = 'queue is not a name; use text of 1 to 120 characters, no control characters';
        end if;
      when 'method' then
        method := value #>> '{}';
        if jsonb_typeof(value) not in ('string', 'null') or method = '' or left(method, 1) = '_' then
          raise invalid_parameter_value using
            message = 'method is not the name of a public method of the class; for a function, leave it out';
        end if;
      when 'priority', 'max_attempts' then
        if jsonb_typeof(value) <> 'number' or (value::numeric) % 1 <> 0
           or value::numeric not between (case word when 'priority' then -32768 else 1 end) and 32767 then
          raise invalid_parameter_value using
            message = format('%s is not a whole number from %s to 32767', word,
                             case word when 'priority' then -32768 else 1 end);
        end if;
        if word = 'priority' then priority := value::numeric; else max_attempts := value::numeric; end if;
      when 'delay' then
        if jsonb_typeof(value) <> 'number' or value::numeric not between 0 and a_century then
          raise invalid_parameter_value using message = 'delay is not a number of seconds, from 0 to a century';
        end if;
        delay := value;
      when 'at' then
        -- One moment everywhere: what the session's TimeZone or DateStyle could turn into another is refused.
        if jsonb_typeof(value) <> 'string' or value #>> '{}' !~
           '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)$' then
          raise invalid_parameter_value using
            message = 'at is not a moment; use ISO 8601 with an offset from UTC, as to_jsonb(now()) writes it';
        end if;
        begin
          due := value #>> '{}';
        exception when datetime_field_overflow or invalid_datetime_format or invalid_time_zone_displacement_value then
          raise invalid_parameter_value using message = 'at is no moment of the calendar';
        end;
        if due not between timestamptz '0001-01-01 00:00+00' and timestamptz '9999-12-31 23:59:59.999999+00' then
          raise invalid_parameter_value using message = 'at is outside of the years 1 to 9999 in UTC';
        end if;
      when 'timeout' then
        if jsonb_typeof(value) = 'null' then
          kept := jsonb_build_object('timeout', null);
        elsif jsonb_typeof(value) <> 'number' or value::numeric <= 0 or value::numeric > a_century then
          raise invalid_parameter_value using
            message = 'timeout is not a number of seconds greater than 0; null means none';
        else
          kept := jsonb_build_object('timeout', value);
        end if;
      when 'tags' then
        if jsonb_typeof(value) <> 'array' or jsonb_array_length(value) > 100 then
          raise invalid_parameter_value using message = 'tags is not an array of at most 100 words';
        end if;
        if exists (select from jsonb_array_elements(value) tag
                    where jsonb_typeof(tag.value) <> 'string' or not asyncjobs.is_name(tag.value #>> '{}')) then
          raise invalid_parameter_value using
            message = 'a tag is not a name; use text of 1 to 120 characters, no control characters';
        end if;
        if jsonb_array_length(value) > 0 then
          tags := array(select jsonb_array_elements_text(value));
        end if;
      when 'meta' then
        if jsonb_typeof(value) <> 'object' then
          raise invalid_parameter_value using message = 'meta is not a JSON object';
        end if;
        meta := value;
      else
        raise invalid_parameter_value using
          message = format('enqueue has no option %s; there are at, delay, max_attempts, meta, method, priority, queue, tags, timeout',
                           to_jsonb(left(word, 60)));
    end case;
  end loop;
  if due is not null and delay is not null then
    raise invalid_parameter_value using message = 'delay and at both say when; give one of them';
  end if;
  insert into asyncjobs.live_jobs
         (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options)
  values (queue, enqueue.kind, method, enqueue.args, priority, max_attempts, statement_timestamp(),
          coalesce(due, statement_timestamp() + delay * interval '1 s', statement_timestamp()),
          case when due > statement_timestamp() or delay > 0::float8 then 1 else 0 end, tags, meta, kept)
  returning id into job;
  perform asyncjobs.wake(queue);   -- after the row has its transaction id: see find_horizon.sql
  return job;
end
$$;

-- The table of delayed_job: what waits, runs or has failed for good, under its column names. A job that ended otherwise is not
-- there, as it was deleted there. `attempts` counts those that failed, as there. A job that was fetched ahead has no start of
-- its own written down: `locked_at` is then the earliest it may have been.
create view asyncjobs.delayed_jobs as
  select live.id, live.priority::integer as priority,
         (live.attempt - case when live.runner is null then 0 else 1 end)::integer as attempts,
         jsonb_build_object('kind', live.kind, 'method', live.method, 'args', live.args)::text as handler,
         (live.errors -> -1 ->> 'error'::text) || coalesce(E'\n' || (live.errors -> -1 ->> 'traceback'::text), '') as last_error,
         live.scheduled_at as run_at,
         case when live.runner is not null
              then coalesce(live.started_at, greatest(live.scheduled_at, live.created_at, runners.started_at)) end as locked_at,
         case when live.runner is not null then coalesce(runners.name, live.runner::text) end as locked_by,
         null::timestamptz as failed_at, live.queue, live.created_at,
         greatest(live.created_at, live.started_at, (jsonb_path_query_first_tz(
           live.errors, '$[last].at.datetime()'::jsonpath, '{}'::jsonb, true) #>> '{}'::text[])::timestamptz) as updated_at
    from asyncjobs.live_jobs live
    left join asyncjobs.runners on runners.incarnation = live.runner
   where live.id > 0
  union all
  select id, priority::integer, attempt::integer,
         jsonb_build_object('kind', kind, 'method', method, 'args', args)::text,
         (errors -> -1 ->> 'error'::text) || coalesce(E'\n' || (errors -> -1 ->> 'traceback'::text), ''),
         scheduled_at, null, null, finished_at, queue, created_at, finished_at
    from asyncjobs.finished_jobs
   where state in (13, 14);

-- Que's job_stats: how the jobs of each kind in each queue stand that are not final.
create view asyncjobs.job_stats as
  select queue, kind, count(*) as count,
         count(*) filter (where runner is not null) as count_working,
         count(*) filter (where failures > 0) as count_errored,
         max(failures) as highest_error_count,
         min(scheduled_at) as oldest_run_at
    from (select queue, kind, runner, scheduled_at,
                 attempt - case when runner is null then 0 else 1 end as failures
            from asyncjobs.live_jobs
           where id > 0) live
   group by queue, kind;

-- Que's job_states: the jobs that runners hold, and who holds each.
create view asyncjobs.job_states as
  select live.id, live.kind, live.method, live.queue, live.priority, live.attempt, live.max_attempts, live.tags,
         live.started_at, live.cancel_requested, live.runner, runners.name as runner_name,
         runners.info ->> 'host'::text as runner_host,
         case when jsonb_typeof(runners.info -> 'pid'::text) = 'number' then (runners.info ->> 'pid'::text)::numeric::bigint end as runner_pid,
         runners.seen_at as runner_seen_at
    from asyncjobs.live_jobs live
    left join asyncjobs.runners on runners.incarnation = live.runner
   where live.id > 0 and live.runner is not null;
