-- Take the jobs of an incarnation over into its successor, in the same process, after its server was lost.
--
-- $1 bigint[] ids, sorted   $2 bigint[] tokens   $3 bigint the old incarnation   $4 bigint the new one
-- A claim that was committed asynchronously may be gone with the server; it is not adopted, and its job must stop.
-- What had begun has begun. A row that somebody's transaction holds is passed by, for the runner would claim and finish nothing
-- until that ends: its job stops as well, and goes back unburnt when the row is let go.
with carried as (
  update asyncjobs.runners new
     set begun = new.begun operator(pg_catalog.||) old.begun,
         begun_tokens = new.begun_tokens operator(pg_catalog.||) old.begun_tokens
    from asyncjobs.runners old
   where new.incarnation = $4::bigint and old.incarnation = $3::bigint
)
update asyncjobs.live_jobs
   set runner = $4::bigint
 where id = any (array(
         select id
           from asyncjobs.live_jobs
          where id = any ($1::bigint[]) and runner = $3::bigint
            and token = ($2::bigint[])[width_bucket(id, $1::bigint[])]
          order by id
            for update skip locked))
returning id
