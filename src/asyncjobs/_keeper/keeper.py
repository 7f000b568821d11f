"""The keeper: one connection that holds the lock, hears notifications, renews the lease and looks for the dead."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import anyio
import orjson

from asyncjobs._engine.identity import Identity
from asyncjobs._engine.link import Patience, keep_open, link
from asyncjobs._keeper.post import Post
from asyncjobs._keeper.sweep import Sweep
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import adopt_jobs, find_held
from asyncjobs._store.listening import CANCEL, FINISHED, QUEUES, READY, channel
from asyncjobs._store.migrate import check_schema_version
from asyncjobs._store.runners import forget_runner, hold_lock, register_runner, release_lock, renew_lease
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs.errors import DatabaseUnavailable

logger = logging.getLogger("asyncjobs")


def version_of_asyncjobs() -> str:
    """The version of the distribution."""
    try:
        return version("asyncjobs-pg")
    except PackageNotFoundError:
        return "unknown"


class _Name(NamedTuple):
    """An incarnation this process went by."""

    incarnation: int
    lock_key: int
    session: Session  #: over which it was entered, and its lock held


class Keeper:
    """Keeps this runner's place among the runners."""

    def __init__(
        self,
        source: Source,
        schema: str,
        identity: Identity,
        post: Post,
        vigilance: Vigilance,
        *,
        listens: bool,
    ) -> None:
        self._source = source
        self._schema = schema
        self._identity = identity
        self._post = post
        self._vigilance = vigilance
        self._listens = listens
        self._incarnation: int | None = None
        self._names: list[_Name] = []  #: under which there may still be jobs; the latest is the last
        self._session: Session | None = None
        self._leaving = anyio.Event()
        self._left = anyio.Event()

    async def run(self) -> None:
        """Keep, for ever: whatever breaks is made anew."""
        patience = Patience("the keeper")
        while True:
            try:
                async with link(self._source, self._schema, pooled=not self._listens) as session:
                    with anyio.fail_after(self._vigilance.answer):
                        await check_schema_version(session)
                    patience.succeeded()
                    await self._keep(session)
            except Exception as error:
                await patience.wait_after(error)
            else:
                self._left.set()
                return
            finally:
                self._identity.lose()
                self._session = None
                self._post.deaf(is_deaf=True)

    async def _keep(self, session: Session) -> None:
        gone = anyio.Event()
        if self._listens:
            with anyio.fail_after(self._vigilance.answer):
                await self._listen(session, gone)
        with anyio.fail_after(self._vigilance.answer):
            await self._succeed(session)
        self._session = session
        self._post.deaf(is_deaf=not self._listens)
        sweep = Sweep(session, self._vigilance)
        renewed_at = anyio.current_time()
        while True:
            with anyio.move_on_after(self._vigilance.look_every):
                await self._first_of(gone, self._identity.doubted, self._leaving)
            if gone.is_set():
                raise DatabaseUnavailable("the server closed the keeper's connection")
            with anyio.fail_after(self._vigilance.answer):
                if self._leaving.is_set():
                    assert self._incarnation is not None
                    await forget_runner(session, self._incarnation)
                    return
                if self._identity.doubted.is_set():
                    await self._succeed(session)
                assert self._incarnation is not None
                if anyio.current_time() - renewed_at >= self._vigilance.renew_every:
                    renewed_at = anyio.current_time()
                    if not await renew_lease(session, self._incarnation):
                        logger.warning("this runner was declared dead, and goes on under a new incarnation")
                        self._identity.doubt()
                        continue
                await sweep.look(self._incarnation)
                await self._look_for_requests(session, self._incarnation)

    async def _first_of(self, *events: anyio.Event) -> None:
        async with anyio.create_task_group() as tasks:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                tasks.cancel_scope.cancel()

            for event in events:
                tasks.start_soon(wait, event)

    async def _listen(self, session: Session, gone: anyio.Event) -> None:
        connection: Any = session.connection
        connection.add_termination_listener(lambda _: gone.set())
        hear: dict[str, Callable[[str], None]] = {
            READY: self._post.ready,
            FINISHED: lambda payload: self._post.finished(int(payload)),
            CANCEL: lambda payload: self._post.cancel(int(payload)),
            QUEUES: lambda _: self._post.queues_changed(),
        }
        for name, tell in hear.items():
            await connection.add_listener(channel(self._schema, name), _hint(tell))

    async def _succeed(self, session: Session) -> None:
        """Become a new incarnation, and bring over what this process still runs.

        The old one's claims that are not brought over were never known here (a reply was lost) or are gone with the
        server: the first go back unburnt, the jobs of the second are stopped.
        """
        former = list(self._names)  # more than one where the connection broke in the middle of this
        new = await self._register(session)
        held = self._post.held() if former else []
        adopted: set[int] = set()
        for name in former:
            adopted |= await adopt_jobs(session, name.incarnation, new, held)
        lost = [claim for claim in held if claim.id not in adopted]
        if lost:
            logger.warning("jobs %s did not survive the server and are stopped", [claim.id for claim in lost])
            self._post.lost(lost)
        for name in former:
            await rescue_jobs(
                session, name.incarnation, blame=False, max_crashes=self._vigilance.max_crashes, error="{}"
            )
            if self._listens and name.session is session:
                await release_lock(session, name.lock_key)
            self._names.remove(name)
        self._incarnation = new
        self._identity.assume(new)
        self._post.ready("")  # what was said while nobody heard, and what was not brought over

    async def _register(self, session: Session) -> int:
        """Enter a new incarnation, whose number was never given out before: random, because a sequence may go back."""
        while True:
            incarnation = secrets.randbelow(2**63 - 1) + 1
            key = incarnation % 2**32 - 2**31
            if not self._listens or await hold_lock(session, key):
                break
        self._names.append(_Name(incarnation, key, session))
        info = {"host": socket.gethostname(), "pid": os.getpid(), "python": platform.python_version()}
        await register_runner(
            session,
            incarnation=incarnation,
            lock_key=key,
            holds_lock=self._listens,
            lease=self._vigilance.lease,
            name=f"{info['host']}:{info['pid']}",
            version=version_of_asyncjobs(),
            info=orjson.dumps(info).decode(),
        )
        return incarnation

    async def _look_for_requests(self, session: Session, incarnation: int) -> None:
        """What notifications may have missed: jobs to be cancelled."""
        claims = self._post.held()
        if not claims:
            return
        for job_id, cancel_requested in (await find_held(session, incarnation, claims)).items():
            if cancel_requested:
                self._post.cancel(job_id)

    async def leave(self) -> None:
        """Leave the list of runners, if this one holds nothing any more, and end."""
        self._leaving.set()
        await self._left.wait()

    def outlive(self) -> Callable[[], None]:
        """Hold the lock until what is returned is called, or the process ends: a thread runs a job that nobody else may
        run meanwhile. Once for each such thread.
        """
        return keep_open(self._session) if self._session is not None else lambda: None


def _hint(tell: Callable[[str], None]) -> Callable[[Any, int, str, object], None]:
    """A payload is a hint: one that is not ours is ignored, and a listener that raised would be deaf from then on."""

    def heard(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        with suppress(ValueError):
            tell(str(payload))

    return heard
