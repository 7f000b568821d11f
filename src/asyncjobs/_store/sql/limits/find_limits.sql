-- How many jobs of each limited queue may begin now, and in how many seconds one more may, where time alone decides.
-- What is used of a queue's rate is a row of its own (0008_rates.sql); where there is none, nothing is.
with limited as materialized (
  select name, concurrency, every, burst::float8 as burst, rates, rates.key is not null as has_row
    from asyncjobs.queues
    left join asyncjobs.rates on rates.key = 'queue:' || name and queues.every is not null
   where concurrency is not null or every is not null
), counted as materialized (
  select *, case when has_row then floor(burst - asyncjobs.tokens_used(rates, clock_timestamp()))::integer
                 when every is not null then burst::integer end as remaining
    from limited
)
select name,
       least(concurrency - (select count(*) from asyncjobs.locks where key = 'queue:' || name), remaining)::integer as allowed,
       case when remaining < 1
            then extract(epoch from asyncjobs.tokens_at(rates, clock_timestamp(), 1::float8) - clock_timestamp())::float8 end as seconds
  from counted
