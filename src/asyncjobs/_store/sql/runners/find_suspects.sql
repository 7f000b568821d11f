-- Other incarnations that look dead: nobody holds their lock, or (where no lock can be held) their lease is over.
-- $1 bigint this incarnation
-- Looking takes the lock for an instant, in this transaction alone. One look is suspicion, not proof: a server that was
-- restarted has freed everybody's lock at once.
select incarnation, lease_over
  from (select incarnation, holds_lock, lock_key, seen_at + lease < now() as lease_over
          from asyncjobs.runners
         where incarnation <> $1::bigint) others
 where case when holds_lock then pg_try_advisory_xact_lock(1634364780, lock_key) else lease_over end
