-- Store a job for every subscription that an event matches, in the publisher's transaction, and wake idle runners when it commits.
--
-- Every attribute a subscription names must be what it says; the subquery finds no row, and so says nothing, where it names none.
-- $1 text name  $2 text attributes, JSON: the inputs of each job  $3 text the meta of each job, JSON; "event" in it: what else is
-- known of the event  $4 boolean whether to look for idle runners
-- Returns each job with its lane.
with published as materialized (
  select $2::text::jsonb as attributes, $3::text::jsonb as meta, ($3::text::jsonb -> 'event') as known
), matching as (
  select subscriptions.*, published.attributes, published.meta || coalesce(subscriptions.meta, '{}') as merged, known
    from asyncjobs.subscriptions, published
   where (event = $1::text
          or event is null and (coalesce($1::text like pattern, false) or coalesce($1::text ~ regex, false)))
     and (matchers is null or (
       select bool_and(coalesce(case
                when wanted ? 'equal' then value = wanted -> 'equal'
                when wanted ? 'match' then jsonb_typeof(value) = 'string' and value #>> '{}' ~ (wanted ->> 'match')
                else case wanted ->> 'be'
                  when 'key' then value is not null
                  when 'value' then value <> 'null'
                  when 'nil' then value is null or value = 'null'
                  when 'empty' then value in ('""', '[]', '{}')
                  when 'blank' then blank
                  when 'present' then not blank
                end
              end, false))
         from (select attributes -> key as value, matcher.value as wanted,
                      attributes -> key is null or attributes -> key in ('null', '[]', '{}')
                      or jsonb_typeof(attributes -> key) = 'string'
                         and btrim(attributes ->> key, E' \t\n\r\f\v') = '' as blank
                 from jsonb_each(matchers) matcher) each_attribute))
), inserted as (
  insert into asyncjobs.live_jobs
         (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options)
  select queue, kind, method, attributes, priority, max_attempts, statement_timestamp(), statement_timestamp(), 0, tags,
         merged || jsonb_build_object('event',
           known || jsonb_build_object('published_at', statement_timestamp(), 'subscription', name)),
         options
    from matching
   order by app, name
  returning id, queue, kind
)
select inserted.id, inserted.queue, inserted.kind
  from inserted,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from inserted where $4::boolean) queues) woken
 order by inserted.id
