"""How many blocks a statement touches, in the worst hours of a table's life.

Not the text of plans: a plan may change its looks from one Postgres to the next, and may look the same while it reads the
whole table. The server counts every block of our tables and indexes a session reads, in cache or not: that is asserted.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from asyncjobs._store.session import Session

HOUR = Callable[[Session], Awaitable[Any]]

_COUNT = """
select coalesce(sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0)
                    + coalesce(toast_blks_read, 0) + coalesce(toast_blks_hit, 0)), 0)::bigint
  from pg_statio_user_tables
"""


class Cost(NamedTuple):
    """What one statement cost."""

    blocks: int
    seconds: float
    result: Any


async def cost(session: Session, act: Callable[[Session], Awaitable[Any]]) -> Cost:
    """Do *act* and say what it cost. Nobody else may be using the database."""
    before = await _blocks(session)
    began = time.perf_counter()
    result = await act(session)
    seconds = time.perf_counter() - began
    return Cost(await _blocks(session) - before, seconds, result)


async def _blocks(session: Session) -> int:
    await session.connection.execute("select pg_stat_force_next_flush()")
    await session.connection.execute("select pg_stat_clear_snapshot()")
    counted: int = await session.connection.fetchval(_COUNT)
    return counted


async def fill(
    session: Session, lanes: list[tuple[str, str]], count: int, *, due_in: str | None = None
) -> None:
    """Store *count* jobs, spread over *lanes*; with *due_in*, an interval, to be due only then."""
    await session.connection.execute(
        """
        insert into asyncjobs.live_jobs (queue, kind, args, scheduled_at, priority, state)
        select ($1::text[])[1 + n % $3::integer], ($2::text[])[1 + n % $3::integer],
               jsonb_build_object('tenant', 'acme-' || n, 'text', repeat('x', 60)),
               now() + coalesce($5::text::interval, interval '0') + n * interval '1 microsecond', (n / 7) % 3,
               case when $5::text is null then 0 else 1 end
          from generate_series(1, $4::integer) n
        """,
        [queue for queue, _ in lanes],
        [kind for _, kind in lanes],
        len(lanes),
        count,
        due_in,
    )
