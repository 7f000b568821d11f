-- Forget finished jobs that are past their time, a chunk at a time, in the order they lie on disk. One that failed because
-- it took runners down stays until somebody decides.
-- $1 float8  seconds completed, skipped and cancelled jobs are kept   $2 float8 the same for failed ones
-- $3 integer at most so many. Returns how many went.
with pruned as (
  delete from asyncjobs.finished_jobs
   where ctid = any (array(
           select ctid
             from asyncjobs.finished_jobs
            where state <> 14
              and finished_at < now() - least($1::float8, $2::float8) * interval '1 s'
              and finished_at < now() - (case state when 13 then $2::float8 else $1::float8 end) * interval '1 s'
            limit $3::integer))
  returning 1
)
select count(*) from pruned
