"""From a NewJob to a row: which Jobs, on which connection, and who is woken when it commits."""
