-- Enter an incarnation. Always committed durably: what it claims must never be claimed under the same name again.
-- $1 bigint incarnation  $2 integer lock key  $3 boolean holds the lock  $4 float8 lease, seconds
-- $5 text name  $6 text version  $7 text info, JSON
insert into asyncjobs.runners (incarnation, lock_key, holds_lock, lease, name, version, info)
values ($1::bigint, $2::integer, $3::boolean, $4::float8 * interval '1 s', $5::text, $6::text, $7::text::jsonb)
