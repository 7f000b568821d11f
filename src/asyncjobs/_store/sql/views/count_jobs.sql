-- How many jobs stand where.
select queue, state, count(*) as jobs from asyncjobs.jobs group by queue, state order by queue, state
