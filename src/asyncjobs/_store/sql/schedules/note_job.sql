-- Count a job among those of a schedule, which is not due.
-- $1 text name  $2 bigint id
update asyncjobs.schedules
   set last_job = $2::bigint, unfinished = case overlap when 'allow' then unfinished else unfinished operator(pg_catalog.||) $2::bigint end
 where name = $1::text
