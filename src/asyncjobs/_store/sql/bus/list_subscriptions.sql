-- Every subscription, by application and name.
select app, name, coalesce(event, pattern, regex) as listens_to, matchers::text, kind, method, queue, priority, max_attempts, since
  from asyncjobs.subscriptions
 order by app, name
