-- One migrator at a time, for as long as this transaction lasts.
select pg_advisory_xact_lock(1634364781, hashtext('asyncjobs:migrate'))
