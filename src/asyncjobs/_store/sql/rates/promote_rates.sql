-- Make ready who waits for a rate and has its tokens now (0008_rates.sql).
-- $1 integer  at most so many rates. Returns the lanes they went to, and in how many seconds the next rate is due.
with promoted as materialized (
  select queue_name, kind_name from asyncjobs.promote_rates($1::integer)
)
select array(select queue_name from promoted) as queues, array(select kind_name from promoted) as kinds,
       (select asyncjobs.rates_due() from (select count(*) from promoted) done) as due
