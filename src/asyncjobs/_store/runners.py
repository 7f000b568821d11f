"""For the keeper: who runs jobs, and who is dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from asyncjobs._store.session import Session


class Suspect(NamedTuple):
    """An incarnation that looks dead."""

    incarnation: int
    lease_over: bool


async def register_runner(
    session: Session,
    *,
    incarnation: int,
    lock_key: int,
    holds_lock: bool,
    lease: float,
    name: str,
    version: str,
    info: str,
) -> None:
    """Enter an incarnation."""
    await session.execute("register_runner", incarnation, lock_key, holds_lock, lease, name, version, info)


async def hold_lock(session: Session, lock_key: int) -> bool:
    """Hold the lock that proves this process alive; False when the key is taken."""
    held: bool = await session.fetchval("hold_lock", lock_key)
    return held


async def release_lock(session: Session, lock_key: int) -> None:
    """Let go of the lock of an incarnation that was succeeded."""
    await session.fetchval("release_lock", lock_key)


async def renew_lease(session: Session, incarnation: int) -> bool:
    """Say that *incarnation* lives; False when it was declared dead."""
    return await session.fetchval("renew_lease", incarnation) is not None


async def find_suspects(session: Session, incarnation: int) -> list[Suspect]:
    """Other incarnations that look dead."""
    return [Suspect(*row) for row in await session.fetch("find_suspects", incarnation)]


async def end_frozen(session: Session, incarnation: int, after: float) -> list[int]:
    """End the sessions of runners that hold their lock and have said nothing for *after* seconds: which."""
    return [frozen for frozen, ended in await session.fetch("end_frozen", incarnation, after) if ended]


async def forget_runner(session: Session, incarnation: int) -> None:
    """Take an incarnation that ended in good order off the list."""
    await session.execute("forget_runner", incarnation)


async def list_runners(session: Session) -> Sequence[Any]:
    """Every incarnation on the list, oldest first."""
    return await session.fetch("list_runners")


async def prepare_session(session: Session, *, synchronous_commit: bool) -> int:
    """Make a session of the runner's own independent of the role's settings; its backend's pid."""
    *_, pid = await session.fetchrow("prepare_session", "on" if synchronous_commit else "off")
    assert isinstance(pid, int)
    return pid
