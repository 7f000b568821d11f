-- Store a job for every subscription that an event matches, in the publisher's transaction, and wake idle runners when it commits.
--
-- $1 text name  $2 text attributes, JSON: the inputs of each job  $3 text the meta of each job, JSON; "event" in it: what else is known of the event
-- $4 boolean whether to look for idle runners
-- Returns each job with its lane.
with matching as (
  select * from asyncjobs.subscriptions
   where (event = $1::text
          or event is null and (coalesce($1::text like pattern, false) or coalesce($1::text ~ regex, false)))
     and (matchers is null or asyncjobs.attributes_match($2::text::jsonb, matchers))
), inserted as (
  insert into asyncjobs.live_jobs
         (queue, kind, method, args, priority, max_attempts, created_at, scheduled_at, state, tags, meta, options)
  select queue, kind, method, $2::text::jsonb, priority, max_attempts, statement_timestamp(), statement_timestamp(), 0, tags,
         $3::text::jsonb || coalesce(meta, '{}') || jsonb_build_object('event',
           ($3::text::jsonb -> 'event') || jsonb_build_object('published_at', statement_timestamp(), 'subscription', name)),
         options
    from matching
   order by app, name
  returning id, queue, kind
)
select inserted.id, inserted.queue, inserted.kind
  from inserted,
       (select count(asyncjobs.wake(queue)) from (select distinct queue from inserted where $4::boolean) queues) woken
 order by inserted.id
