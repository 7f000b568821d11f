"""An attacker who may create objects in `public`, as anybody could before PostgreSQL 15.

Postgres prefers the function or operator that fits the arguments best, wherever it is found. What it brings itself for
arguments of any type therefore loses against one made for exactly those types, though `pg_catalog` is searched first.
"""

from __future__ import annotations

from itertools import product
from typing import Any

TYPES = [
    "bigint", "integer", "smallint", "double precision", "text", "boolean", "jsonb", "timestamptz", "interval",
    "bigint[]", "text[]", "smallint[]", "boolean[]", "double precision[]",
]  # fmt: skip

TRAP = "language plpgsql as $$ begin raise exception 'shadowed: % runs as %', '{what}', current_user; end $$"

ANY_TYPE = """
select distinct proname, pronargs, prokind = 'a' as aggregates, provariadic <> 0 as is_variadic
  from pg_proc
 where pronamespace = 'pg_catalog'::regnamespace and prokind in ('f', 'a')
   and (proname = any ($1::text[]))
   and exists (select from unnest(proargtypes::oid[]) kind join pg_type on pg_type.oid = kind where typtype = 'p')
"""

OPERATORS = ["||", "*", "+", "-", "/", "%", "<", ">", "=", "<>", "<=", ">="]

EXACT = """
select exists (select from pg_operator
                where oprnamespace = 'pg_catalog'::regnamespace and oprname = $1
                  and oprleft = $2::text::regtype and oprright = $3::text::regtype)
"""


async def cast_shadows(connection: Any, functions: list[str], schema: str = "public") -> int:
    """Make a better fitting twin of whatever of *functions*, and of the operators, takes arguments of any type. How many."""
    scripts = []
    for name, arguments, _, is_variadic in await connection.fetch(ANY_TYPE, functions):
        for count in {2, 4} if is_variadic else {arguments}:
            if count == 0 or count > 4:
                continue
            kinds = product(TYPES, repeat=count) if count < 3 else (("text", t, "text", t) for t in TYPES)
            scripts += [
                f'create or replace function {schema}."{name}"({", ".join(each)}) returns text {TRAP.format(what=name)};'
                for each in kinds
            ]
    scripts.append(
        "".join(
            f"create function {schema}.trap({left}, {right}) returns {returns} {TRAP.format(what='an operator')};"
            for left, right, returns in ((left, right, "text") for left, right in product(TYPES, repeat=2))
        )
    )
    for operator, left, right in product(OPERATORS, TYPES, TYPES):
        if not await connection.fetchval(EXACT, operator, left, right):
            scripts.append(
                f"create operator {schema}.{operator} (function = {schema}.trap, leftarg = {left}, rightarg = {right});"
            )
    await connection.execute("\n".join(scripts))
    return len(scripts)
