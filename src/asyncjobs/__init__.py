"""Background jobs on the Postgres your application already has."""
