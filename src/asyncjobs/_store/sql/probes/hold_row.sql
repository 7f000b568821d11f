-- Lock one row of the ballast that nobody else has locked, until the end of the transaction.
-- $1 bigint  from which on to look: a random one, so that processes that start together do not meet
select id from asyncjobs.live_jobs where id between $1::bigint and -1 order by id limit 1 for update skip locked
