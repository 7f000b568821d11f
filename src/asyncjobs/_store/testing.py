"""For the tests of applications (asyncjobs.testing): a clock of the session's own, and what is due later, now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from asyncjobs._store.session import Session


async def make_clock(session: Session) -> None:
    """Let this session's clock be set; until then it goes as ever."""
    await session.execute("make_clock")


async def read_clock(session: Session) -> datetime:
    """What this session takes for the time."""
    now: datetime = await session.fetchval("read_clock")
    return now


async def set_clock(session: Session, now: datetime) -> None:
    """Let this session's clock stand at *now*."""
    await session.execute("set_clock", now)


async def drop_clock(session: Session) -> None:
    """Let this session's clock go as ever, for good."""
    await session.execute("drop_clock")


async def bring_forward(session: Session, queues: Sequence[str] | None, until: datetime | None) -> int:
    """Make those waiting jobs available that are due next, if they are due now, or by *until*: how many."""
    moved: int = await session.fetchval("bring_forward", queues, until)
    return moved
