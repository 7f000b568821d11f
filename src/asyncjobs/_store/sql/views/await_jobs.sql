-- Say that somebody awaits these jobs, so that finishing them notifies; one somebody is at just now is passed by (await_job).
-- $1 bigint[] ids
with live as materialized (
  select id from asyncjobs.live_jobs where id = any ($1::bigint[]) and id > 0 order by id for update skip locked
)
update asyncjobs.live_jobs set awaited = true where id = any (array(select id from live)) returning id
