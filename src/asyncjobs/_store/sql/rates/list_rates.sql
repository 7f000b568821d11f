-- The rates of which something is used, for people; $1 text[] of these keys alone, null for all.
select key, queue, capacity, seconds, "window", tokens_left, waiting, due_at
  from asyncjobs.rate_limits
 where $1::text[] is null or key = any ($1::text[])
 order by queue, key
