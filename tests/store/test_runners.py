"""Who is on the list of runners, and whose session is ended because it stands still."""

from __future__ import annotations

import pytest

from asyncjobs._store.runners import end_frozen, hold_lock
from asyncjobs._store.session import Session
from tests.store.jobs import enter, session_of
from tests.waiting import eventually_async

LOOKER, FROZEN, FORMER, CURRENT = 11, 12, 13, 14


async def silent_for(session: Session, runner: int, seconds: float) -> None:
    """*runner* has not renewed its lease for so long."""
    await session.connection.execute(
        "update asyncjobs.runners set seen_at = now() - $2 * interval '1 s' where incarnation = $1",
        runner,
        seconds,
    )


@pytest.mark.failure_mode("F07")
async def test_of_those_who_hold_a_lock_the_silent_are_ended_and_nobody_else(dsn: str) -> None:
    """Not who looks, nor who renewed in time, nor a session that keeps the lock of an incarnation it has not wound up yet."""
    async with session_of(dsn) as looker, session_of(dsn) as frozen, session_of(dsn) as alive:
        for session, runner, silence in (
            (looker, LOOKER, 100.0),
            (frozen, FROZEN, 20.0),
            (alive, FORMER, 20.0),
            (alive, CURRENT, 5.0),
        ):
            await enter(session, runner, holds_lock=True)
            assert await hold_lock(session, runner)
            await silent_for(session, runner, silence)
        assert await end_frozen(looker, LOOKER, 30.0) == []
        assert await end_frozen(looker, LOOKER, 10.0) == [FROZEN]

        async def is_ended() -> bool:
            return bool(frozen.connection.is_closed())  # type: ignore[attr-defined]

        await eventually_async(is_ended)
        assert await alive.connection.fetchval("select 1") == 1
        assert await end_frozen(looker, LOOKER, 10.0) == []
