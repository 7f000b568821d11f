-- $1 integer version   $2 text name   $3 integer the oldest code that can work with the schema from here on
insert into asyncjobs.migrations (version, name, oldest_code) values ($1::integer, $2::text, $3::integer)
