-- The version of the schema, and the oldest code that can work with it.
select max(version) as version, max(oldest_code) as oldest_code from asyncjobs.migrations
