-- Say that a running process goes on with its subscriptions: what is missing is written, nothing that stands there is changed.
-- $1 text app  $2 text a JSON array of subscriptions  $3 float8 seconds in which nobody need say so again
insert into asyncjobs.subscriptions as known
       (app, name, event, pattern, regex, matchers, kind, method, queue, priority, max_attempts, tags, meta, options)
select $1::text, new.name, new.event, new.pattern, new.regex, new.matchers, new.kind, new.method, new.queue, new.priority,
       new.max_attempts, new.tags, new.meta, new.options
  from jsonb_to_recordset($2::text::jsonb)
    as new (name text, event text, pattern text, regex text, matchers jsonb, kind text, method text, queue text,
            priority smallint, max_attempts smallint, tags text[], meta jsonb, options jsonb)
 order by new.name
on conflict (app, name) do update set declared_at = clock_timestamp()
 where known.declared_at < clock_timestamp() - $3::float8 * interval '1 s'
returning name
