"""Find out what works between this process and its database, by doing it: the names and versions of servers say too little.

Two sessions are needed, because a lock that is not refused to a second one is none (some servers take the function and do
nothing), and a notification counts when it was sent elsewhere and is heard here. Where the backend that answers is not the one
the connection was told of, somebody stands between: what the server knows of this process, and of its end, it then knows from
that somebody, so no lock proves it alive. Nothing is left behind, even there: before anything is done that stays with a session,
it is known that the session is ours alone.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio

from asyncjobs._engine.link import UnfitServer
from asyncjobs._model.modes import Modes
from asyncjobs._store.faults import is_transient, sqlstate
from asyncjobs._store.listening import channel
from asyncjobs._store.probes import (
    hold_probe,
    hold_row,
    is_pooled,
    name_backend,
    pass_over_row,
    release_probe,
    try_probe,
)
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source

ALL_WITHIN = 20.0  #: seconds; it takes a dozen round trips
HEARD_WITHIN = 1.0  #: seconds a notification is waited for, which takes a thousandth of that
PASSED_WITHIN = 1.0  #: seconds until passing over counts as waiting
SHARED_ROUNDS = 4  #: how often both sessions are asked who answers


async def find_modes(session: Session, source: Source) -> Modes:
    """What a runner can rely on, over *session* and what *source* opens beside it."""
    _, is_read_only = await name_backend(session)
    if is_read_only:
        raise UnfitServer(
            "this server takes no writes: it is a standby, or was demoted; name the primary, or every host of the cluster "
            "in one DSN (postgresql://…@one,two/…?target_session_attrs=read-write)"
        )
    pooled = is_pooled(session.connection)
    with anyio.fail_after(ALL_WITHIN):
        return await _look(session, source, pooled=pooled)


async def _look(session: Session, source: Source, *, pooled: bool) -> Modes:
    async with _another(source, session.schema) as other:
        if other is None:  # the server has no room for one more
            return (
                Modes("lease", "poll", why="a pooler is between, and nothing more was found out")
                if pooled
                else Modes(why="nobody is between, and nothing more was found out: the server is full")
            )
        if pooled and await _is_shared(session, other):
            return Modes("lease", "poll", why="a pooler is between, which shares server connections")
        locks, hears = await _try_out(session, other)
        if not await _passes_over(session, other):
            raise UnfitServer(
                "this server does not pass over rows that others have locked (FOR UPDATE SKIP LOCKED), which every claim "
                "relies on; asyncjobs cannot run jobs on it"
            )
    found = [
        "a pooler is between, which keeps sessions apart" if pooled else "nobody is between",
        "locks hold" if locks else "locks do not hold",
        "notifications arrive" if hears else "notifications do not arrive",
    ]
    return Modes(
        "lock" if locks and not pooled else "lease",
        "notify" if locks and hears else "poll",  # the idle announce themselves by a lock
        ", ".join(found),
    )


@asynccontextmanager
async def _another(source: Source, schema: str) -> AsyncIterator[Session | None]:
    """A second session; None where the server takes no more."""
    try:
        connection = await source.connect()
    except Exception as error:
        if (sqlstate(error) or "").startswith("53"):
            yield None
            return
        raise
    try:
        yield Session(connection, schema)
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await connection.close()
    finally:
        connection.terminate()


async def _is_shared(session: Session, other: Session) -> bool:
    """Whether a backend serves both sessions, or one session is served by several."""
    mine: set[int] = set()
    theirs: set[int] = set()
    for _ in range(SHARED_ROUNDS):
        mine.add((await name_backend(session))[0])
        theirs.add((await name_backend(other))[0])
    return len(mine) > 1 or len(theirs) > 1 or bool(mine & theirs)


async def _try_out(session: Session, other: Session) -> tuple[bool, bool]:
    """Whether the lock of one session is refused to another, and whether it hears what another says."""
    connection: Any = session.connection
    key = random.randint(-(2**31), 2**31 - 1)
    name = channel(session.schema, f"probe {key}")
    heard = anyio.Event()

    def hear(*_: object) -> None:
        heard.set()

    held = refused = listens = False
    try:
        with _unless_unknown():
            held = (await hold_probe(session, key)).held
        with _unless_unknown():
            await connection.add_listener(name, hear)
            listens = True
        with _unless_unknown():
            _, refused, said = await try_probe(other, key, name)
            if not said:
                return held and refused, listens
        if listens:
            with anyio.move_on_after(HEARD_WITHIN):
                await heard.wait()
    finally:
        if not connection.is_closed():
            if held:
                await release_probe(session, key)
            if listens:
                await connection.remove_listener(name, hear)
    return held and refused, heard.is_set()


async def _passes_over(session: Session, other: Session) -> bool:
    """Whether a row locked by one session is passed over by another, without waiting for it."""
    with _unless_unknown():
        async with session.connection.transaction():
            row = await hold_row(session, -random.randint(1, 1400))
            if row is None:
                return True
            with anyio.move_on_after(PASSED_WITHIN):
                async with other.connection.transaction():
                    await other.execute(
                        "begin_migrating"
                    )  # to write, though reading is the database's default
                    return await pass_over_row(other, row)
    return False


@contextmanager
def _unless_unknown() -> Iterator[None]:
    """Passes by what the server does not understand; its absence, that of the network, and what this role may not do are
    other matters.
    """
    try:
        yield
    except Exception as error:
        if is_transient(error) or sqlstate(error) in (None, "42501"):
            raise
