-- Whether a suspect waits that this runner could run, and none runs alone anywhere (claim_suspect.sql).
-- $1 text[] queues, '' for every one   $2 text[] kinds   $3 float8 seconds a suspect is alone   $4 integer crashes that fail it
-- $5 smallint, $6 smallint the priorities this runner takes
select exists (
         select from asyncjobs.live_jobs
          where state = 4
            and kind = any ($2::text[]) and ('' = any ($1::text[]) or queue = any ($1::text[]))
            and priority between $5::smallint and $6::smallint
            and queue <> all ((select asyncjobs.closed_queues(0))::text[]))
       and not asyncjobs.suspect_runs($3::float8, $4::integer)
