"""100,000 jobs that are none of a runner's business do not slow its claims: at most by half as much again.

In one queue, ahead of its own: of kinds it does not know, due later, claimed by others, or finished. Blocks are compared
exactly; times as medians of interleaved claims, because a machine's minutes differ more than the statements.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import pytest

from asyncjobs._store import claims
from asyncjobs._store.session import Session
from tests.store.jobs import claim, session_of
from tests.store.plans import cost, fill

MANY = 100_000
OURS = [("q", "k"), ("q", "l")]


async def unknown(session: Session) -> None:
    """Of kinds nobody here defines."""
    await fill(session, [("q", f"{letter}:Newer") for letter in "azkl"], MANY)


async def later(session: Session) -> None:
    """Due in a day."""
    await fill(session, OURS, MANY, due_in="1 day")


async def gone(session: Session) -> None:
    """Finished."""
    await fill(session, OURS, MANY)
    await session.connection.execute("""
        with gone as (delete from asyncjobs.live_jobs where id > 0 returning *)
        insert into asyncjobs.finished_jobs
               (id, finished_at, created_at, scheduled_at, token, priority, attempt, max_attempts, crashes, state,
                queue, kind, args)
        select id, now(), created_at, scheduled_at, token, priority, attempt, max_attempts, crashes, 10, queue, kind, args
          from gone
    """)
    await session.connection.execute("vacuum asyncjobs.live_jobs")


NEIGHBOURS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "unknown": unknown,
    "later": later,
    "gone": gone,
}


@pytest.fixture(scope="module")
async def measured(databases: Any, migrated: str) -> AsyncIterator[dict[str, dict[str, tuple[int, float]]]]:
    """Blocks and median seconds of a claim and of a look around, alone and with each kind of neighbours."""
    async with AsyncExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name in ("alone", *NEIGHBOURS):
            dsn = await stack.enter_async_context(databases.clone(migrated))
            sessions[name] = session = await stack.enter_async_context(
                session_of(dsn, synchronous_commit="on")
            )
            if name in NEIGHBOURS:
                await NEIGHBOURS[name](session)
            await fill(session, OURS, 2_000)
        blocks: dict[tuple[str, str], list[int]] = {}
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(30):
            for name, session in sessions.items():
                for what, act in {
                    "claim": lambda s: claim(s, lanes=OURS, room=20, shared=True),
                    "look": claims.look_around,
                }.items():
                    spent = await cost(session, act)
                    assert what == "look" or len(spent.result) == 20
                    blocks.setdefault((name, what), []).append(spent.blocks)
                    seconds.setdefault((name, what), []).append(spent.seconds)
        yield {
            name: {what: (sum(blocks[name, what]), median(seconds[name, what])) for what in ("claim", "look")}
            for name in sessions
        }


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
async def test_neighbours_cost_a_claim_nothing(
    measured: dict[str, dict[str, tuple[int, float]]], neighbours: str
) -> None:
    """Half as many blocks again at most, and twice the time."""
    blocks, seconds = measured["alone"]["claim"]
    crowded_blocks, crowded_seconds = measured[neighbours]["claim"]
    assert crowded_blocks <= 1.5 * blocks
    assert crowded_seconds <= 2 * seconds


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
async def test_neighbours_cost_a_look_around_little(
    measured: dict[str, dict[str, tuple[int, float]]], neighbours: str
) -> None:
    """One step of the index for each lane there is."""
    blocks, _ = measured["alone"]["look"]
    crowded_blocks, _ = measured[neighbours]["look"]
    assert crowded_blocks <= blocks + 30 * 40
