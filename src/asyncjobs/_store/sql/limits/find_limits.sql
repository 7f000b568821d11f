-- How many jobs of each limited queue may begin now, and in how many seconds one more may, where time alone decides.
select name,
       least(concurrency - (select count(*) from asyncjobs.locks where key = 'queue:' || name),
             asyncjobs.tokens_in(every, burst, next_at))::integer as allowed,
       case when asyncjobs.tokens_in(every, burst, next_at) < 1
            then extract(epoch from next_at - clock_timestamp())::float8 - (burst - 1)::float8 * every end as seconds
  from asyncjobs.queues
 where concurrency is not null or every is not null
