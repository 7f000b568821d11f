-- From another session, in the form of a claim: is a row that one holds passed over, and without waiting?
-- $1 bigint  its id. Returns it when it was not passed over.
update asyncjobs.live_jobs
   set runner = runner
 where ctid = any (array(select ctid from asyncjobs.live_jobs where id = $1::bigint for update skip locked))
returning id
