-- While a migration waits for a lock on a table, everybody else waits behind it: for so long, in this transaction, and no longer.
-- $1 integer  milliseconds
select set_config('lock_timeout', $1::integer::text, true)
