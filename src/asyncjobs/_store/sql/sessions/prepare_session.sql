-- Make a session of the runner's own independent of what role and database prescribe, and quick to notice a dead network.
-- $1 text  synchronous_commit: 'off' for claims alone. A claim that a server crash forgets is claimed again under another
--          incarnation, so nothing is lost; the flush is taken out of the start latency.
select set_config('synchronous_commit', $1::text, false),
       set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '0', false),
       set_config('idle_session_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '30s', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('default_transaction_read_only', 'off', false),
       set_config('tcp_keepalives_idle', '2', false),
       set_config('tcp_keepalives_interval', '1', false),
       set_config('tcp_keepalives_count', '3', false),
       set_config('tcp_user_timeout', '6s', false),       -- of what was sent and is not confirmed, which keepalives leave alone
       (select set_config(name, '1s', false)              -- a statement ends soon after whoever sent it
          from pg_settings
         where name = 'client_connection_check_interval' and version() ~* 'linux|darwin|bsd'),  -- elsewhere it is refused
       (select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'),  -- from 17 on
       set_config('jit', 'off', false),
       set_config('application_name', coalesce(nullif(current_setting('application_name'), ''), 'asyncjobs'), false),
       set_config('search_path', 'pg_catalog, pg_temp', false),  -- nobody's functions pass for Postgres' own
       set_config('row_security', 'off', false),  -- a policy that hides jobs from the runner is an error, not silence
       pg_backend_pid()
