-- Say that this incarnation lives. Returns nothing when it was declared dead.
-- $1 bigint the incarnation
update asyncjobs.runners set seen_at = now() where incarnation = $1::bigint returning incarnation
