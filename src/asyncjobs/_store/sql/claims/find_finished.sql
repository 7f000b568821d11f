-- Which of these claims reached a final state: tells "already done by me, the reply was lost" from "taken from me".
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the incarnation
select id
  from asyncjobs.finished_jobs
 where id = any ($1::bigint[]) and runner = $3::bigint and token = ($2::bigint[])[width_bucket(id, $1::bigint[])]
