-- Say which prefetched jobs have begun, before they begin: one write per batch, on the runner's own row.
--
-- $1 bigint    the incarnation
-- $2 bigint[]  every prefetched job it is running or about to run   $3 bigint[] the token each was claimed with; as text
-- A job that is claimed, has no started_at and is not listed here was never begun: a crash is not its fault.
-- Returns nothing when the incarnation is gone (it was declared dead): then nothing may begin.
update asyncjobs.runners
   set begun = $2::text::bigint[], begun_tokens = $3::text::bigint[]
 where incarnation = $1::bigint
returning incarnation
