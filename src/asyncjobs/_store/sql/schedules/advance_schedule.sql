-- Say that the ticks of a schedule are dealt with, until a moment. Its row was taken in the same transaction.
-- $1 text name  $2 timestamptz until  $3 timestamptz the last tick that has a job, or null  $4 bigint that job, or null
-- $5 bigint[] its jobs that may be live
update asyncjobs.schedules
   set passed_until = $2::timestamptz, last_tick = coalesce($3::timestamptz, last_tick), last_job = coalesce($4::bigint, last_job),
       unfinished = $5::bigint[]
 where name = $1::text
