-- From another session: is a row that one holds passed over, and without waiting?
-- $1 bigint  its id
select count(*) = 0 as passed_over
  from (select id from asyncjobs.live_jobs where id = $1::bigint for update skip locked) locked
