-- Say which jobs have taken these keys for their windows, in the transaction that stored them (insert_unique_jobs.sql).
-- $1 text[] keys   $2 bigint[] ids
update asyncjobs.unique_windows
   set job = named.id
  from unnest($1::text[], $2::bigint[]) as named (unique_key, id)
 where unique_windows.unique_key = named.unique_key
