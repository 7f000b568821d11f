-- Forget keys whose window is over, a chunk at a time; one that is being taken again is passed by.
-- $1 integer  at most so many. Returns how many went.
with pruned as (
  delete from asyncjobs.unique_windows
   where unique_key = any (array(
           select unique_key
             from asyncjobs.unique_windows
            where expires_at < now()
            order by expires_at limit $1::integer
              for update skip locked))
  returning 1
)
select count(*) from pruned
