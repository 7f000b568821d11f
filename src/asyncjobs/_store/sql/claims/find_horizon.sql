-- Whether every transaction that could have looked for an idle runner before $1 was announced is over.
--
-- A transaction may probe (nobody idle), then the runner announces itself and finds nothing, then the transaction
-- commits: nobody would be notified. So the runner looks again until this is true, and claims once more after that.
-- $1 bigint  a transaction id taken after the announcement. pg_snapshot_xmax would miss open transactions above it.
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint > $1::bigint
