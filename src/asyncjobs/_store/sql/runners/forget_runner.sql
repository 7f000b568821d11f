-- Take an incarnation off the list that ended in good order and holds nothing any more.
-- $1 bigint the incarnation
delete from asyncjobs.runners
 where incarnation = $1::bigint
   and not exists (select from asyncjobs.live_jobs where state = 0 and runner = $1::bigint)
