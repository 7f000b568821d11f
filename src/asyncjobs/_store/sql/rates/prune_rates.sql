-- Forget rates of which nothing is used and for which nobody waits, a chunk at a time; one that is being asked is passed by.
-- $1 integer  at most so many. Returns how many went.
with chosen as materialized (
  select key
    from asyncjobs.rates
   where due_at is null and full_at < clock_timestamp()
   limit $1::integer
     for update skip locked
), emptied as (
  delete from asyncjobs.rate_payments where key = any (array(select key from chosen))
), pruned as (
  delete from asyncjobs.rates where key = any (array(select key from chosen)) returning 1
)
select count(*) from pruned
