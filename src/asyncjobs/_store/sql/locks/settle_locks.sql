-- Give slots that are free to the jobs that wait for them, after a race that left both.
-- $1 text[] keys
select asyncjobs.settle_locks($1::text[])
