-- Which of these live jobs are locked by somebody else's transaction, so that a write would wait for its end.
-- $1 bigint[] ids
with free as materialized (
  select id
    from asyncjobs.live_jobs
   where id = any ($1::bigint[])
     for update skip locked
)
select id
  from asyncjobs.live_jobs
 where id = any ($1::bigint[]) and id not in (select id from free)
