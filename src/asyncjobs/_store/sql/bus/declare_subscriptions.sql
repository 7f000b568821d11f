-- Write the subscriptions of an application as the code of a process has them that starts: over what stands there.
-- $1 text app  $2 text a JSON array of subscriptions
insert into asyncjobs.subscriptions
       (app, name, event, pattern, regex, matchers, kind, method, queue, priority, max_attempts, tags, meta, options)
select $1::text, new.name, new.event, new.pattern, new.regex, new.matchers, new.kind, new.method, new.queue, new.priority,
       new.max_attempts, new.tags, new.meta, new.options
  from jsonb_to_recordset($2::text::jsonb)
    as new (name text, event text, pattern text, regex text, matchers jsonb, kind text, method text, queue text,
            priority smallint, max_attempts smallint, tags text[], meta jsonb, options jsonb)
 where (new.regex is null or ('' ~ new.regex) is not null)    -- what Postgres cannot read fails here, and in no publisher
   and not exists (select from jsonb_each(new.matchers) wanted where wanted.value ? 'match' and ('' ~ (wanted.value ->> 'match')) is null)
 order by new.name
on conflict (app, name) do update
   set (event, pattern, regex, matchers, kind, method, queue, priority, max_attempts, tags, meta, options, declared_at)
     = (excluded.event, excluded.pattern, excluded.regex, excluded.matchers, excluded.kind, excluded.method, excluded.queue,
        excluded.priority, excluded.max_attempts, excluded.tags, excluded.meta, excluded.options, excluded.declared_at)
returning name
