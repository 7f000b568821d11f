-- Forget those subscriptions of an application that are not among the names given and that nobody has declared for so long.
-- $1 text app  $2 text[] names  $3 float8 seconds
delete from asyncjobs.subscriptions
 where app = $1::text and not name = any ($2::text[])
   and declared_at <= clock_timestamp() - $3::float8 * interval '1 s'
returning name
