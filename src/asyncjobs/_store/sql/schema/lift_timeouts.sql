-- Take the time it takes, and nobody's functions for Postgres' own, for as long as this transaction lasts.
select set_config('statement_timeout', '0', true),
       set_config('lock_timeout', '0', true),
       set_config('idle_in_transaction_session_timeout', '0', true),
       set_config('search_path', 'pg_catalog, pg_temp', true)
