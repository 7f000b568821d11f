-- Fails where somebody stands between: then another backend answers than the one this connection was told of at its start.
-- $1 integer  the backend as the connection knows it; written in, because what takes a parameter is a prepared statement,
--             and that is what may not work there
select case when pg_backend_pid() = $1::integer then 0 else (pg_backend_pid() || ' answers, as a pooler pleases')::integer end
