"""The keeper: one connection that holds the lock, hears notifications, renews the lease and looks for the dead."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import anyio
import orjson

from asyncjobs._engine.identity import Identity
from asyncjobs._engine.link import Patience, keep_open, link
from asyncjobs._keeper.post import Crossing, hint
from asyncjobs._keeper.probe import find_modes
from asyncjobs._keeper.reconcile import Reconciler, Verdict
from asyncjobs._keeper.sweep import Sweep
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.modes import Modes
from asyncjobs._store.chores import rescue_jobs
from asyncjobs._store.claims import adopt_jobs, find_claims, find_held
from asyncjobs._store.listening import CANCEL, FINISHED, QUEUES, READY, SCHEDULES, channel
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


Errand = Callable[[Session, int], Awaitable[object]]
"""What is done over the keeper's session, under an incarnation."""


class _Name(NamedTuple):
    """An incarnation this process went by."""

    incarnation: int
    lock_key: int
    session: Session  #: over which it was entered, and its lock held


class Keeper:
    """Keeps this runner's place among the runners. Everything here happens on the keeper's own loop."""

    def __init__(
        self,
        source: Source,
        schema: str,
        identity: Identity,
        vigilance: Vigilance,
        *,
        modes: Modes | None,
        name: str | None = None,
    ) -> None:
        self._source = source
        self._schema = schema
        self._identity = identity
        self._vigilance = vigilance
        self._modes_by_hand = modes
        self._own_name = name  #: for people
        self._modes = modes or Modes()
        self._incarnation: int | None = None
        self._names: list[_Name] = []  #: under which there may still be jobs; the latest is the last
        self._reconciler = Reconciler(vigilance)
        self._session: Session | None = None
        self._believed_until = float("inf")  #: by those who go by the lease, on the monotonic clock

    def begin(self, post: Crossing) -> None:
        """Before `run`, on its loop: whom to tell."""
        self._post = post
        self._doubted, self._leaving, self._left = anyio.Event(), anyio.Event(), anyio.Event()
        #: somebody says that a job is to be stopped: the table knows whether it is so
        self._asked = anyio.Event()
        self._errands: deque[Errand] = deque()
        self._sent = anyio.Event()  #: on an errand

    async def run(self) -> None:
        """Keep, until told to leave: whatever breaks is made anew."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._fence)
            await self._keep_on()
            tasks.cancel_scope.cancel()

    async def _keep_on(self) -> None:
        patience = Patience("the keeper")
        while True:
            try:
                async with link(self._source, self._schema, answer=self._vigilance.answer) as session:
                    try:
                        await check_schema_version(session)
                        self._choose(self._modes_by_hand or await find_modes(session, self._source))
                        patience.succeeded()
                        await self._keep(session)
                    finally:
                        self._is_gone()
            except Exception as error:
                await patience.wait_after(error)
            else:
                self._left.set()
                return

    def _is_gone(self) -> None:
        """The session is about to be, and with it the lock."""
        self._identity.lose()
        self._session = None
        self._post.deaf(is_deaf=True)

    def _choose(self, modes: Modes) -> None:
        if modes != self._modes or self._incarnation is None:
            logger.info("%s", modes)
        self._modes = self._identity.modes = modes

    async def _keep(self, session: Session) -> None:
        gone = anyio.Event()
        if self._modes.hears:
            await self._listen(session, gone)
        await self._succeed(session)
        self._session = session
        self._post.deaf(is_deaf=not self._modes.hears)
        sweep = Sweep(session, self._vigilance)
        renewed_at = anyio.current_time()
        look_at = renewed_at + self._vigilance.look_every
        while True:
            with anyio.move_on_after(max(0.0, look_at - anyio.current_time())):
                await self._first_of(gone, self._doubted, self._leaving, self._asked, self._sent)
            if gone.is_set():
                raise DatabaseUnavailable("the server closed the keeper's connection")
            if self._leaving.is_set():
                assert self._incarnation is not None
                await forget_runner(session, self._incarnation)
                return
            if self._doubted.is_set():
                await self._succeed(session)
            assert self._incarnation is not None
            self._sent = anyio.Event()
            while self._errands:
                await self._errands.popleft()(session, self._incarnation)
            if self._asked.is_set():  # anybody may notify, as often as he likes: it delays nothing below
                self._asked = anyio.Event()
                if anyio.current_time() < look_at:
                    await self._look_for_requests(session, self._incarnation)
            if anyio.current_time() < look_at:
                continue
            look_at = anyio.current_time() + self._vigilance.look_every
            if anyio.current_time() - renewed_at >= self._vigilance.renew_every:
                renewed_at = anyio.current_time()
                if not await self._renew(session, self._incarnation):
                    continue
            await sweep.look(self._incarnation, {name.incarnation for name in self._names})
            await self._look_for_requests(session, self._incarnation)
            await self._reconcile(session, self._incarnation)

    async def _renew(self, session: Session, incarnation: int) -> bool:
        believed_until = self._believed_from_now()  # from before it is said
        if await renew_lease(session, incarnation):
            self._believed_until = believed_until
            return True
        logger.warning("this runner was declared dead, and goes on under a new incarnation")
        self._doubt()
        return False

    def _believed_from_now(self) -> float:
        return float("inf") if self._modes.locks else time.monotonic() + self._vigilance.fence_after

    async def _fence(self) -> None:
        """Without a lock, stop what runs before others may take this runner for dead, should it be cut off from Postgres.

        With a lock there is nothing to do: while the server believes in the session nobody takes its jobs, and when it does
        not any more, the jobs may begin elsewhere while they end here; of the two, only the later claim may write. Those
        jobs go on because an outage of the server looks the same from here, and must cost nobody an attempt.
        """
        while True:
            await anyio.sleep(
                min(self._vigilance.look_every, max(0.0, self._believed_until - time.monotonic()))
            )
            if time.monotonic() >= self._believed_until:
                logger.warning(
                    "cut off from Postgres for so long that others may take over: what runs here is stopped"
                )
                self._believed_until = float("inf")
                self._doubt()
                self._post.cut_off()

    def _doubt(self) -> None:
        self._identity.lose()
        self._doubted.set()

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
            CANCEL: lambda _: self._asked.set(),
            QUEUES: lambda _: self._post.queues_changed(),
            SCHEDULES: lambda _: self._post.schedules_changed(),
        }
        for name, tell in hear.items():
            with anyio.fail_after(self._vigilance.answer):
                await connection.add_listener(channel(self._schema, name), hint(tell))

    async def _succeed(self, session: Session) -> None:
        """Become a new incarnation, and bring over what this process still runs.

        The old one's claims that are not brought over were never known here (a reply was lost) or are gone with the
        server: the first go back unburnt, the jobs of the second are stopped. From the loss of the old one until the new one
        is assumed, no claim is entered among those held.
        """
        self._identity.lose()
        former = list(self._names)  # more than one where the connection broke in the middle of this
        believed_until = self._believed_from_now()
        new = await self._register(session)
        held = await self._post.held() if former else []
        adopted: set[int] = set()
        for name in former:
            adopted |= await adopt_jobs(session, name.incarnation, new, held)
        lost = [claim for claim in held if claim.id not in adopted]
        if lost:
            logger.warning("jobs %s did not survive the server and are stopped", [claim.id for claim in lost])
            self._post.lost(lost)
        for name in former:
            self._reconciler.succeeded(name.incarnation)
            await self._give_back(session, name.incarnation)
        self._incarnation = new
        self._believed_until = believed_until
        self._doubted = anyio.Event()
        self._post.assume(new, self._identity.losses)
        self._post.ready("")  # what was said while nobody heard, and what was not brought over

    async def _give_back(self, session: Session, former: int) -> None:
        """Let go of everything a former incarnation still holds: its process lives, so nothing is to blame.

        While a row of its is locked by somebody, its lock is kept, so that nobody takes it for dead.
        """
        await rescue_jobs(session, former, blame=False, max_crashes=self._vigilance.max_crashes, error="{}")
        for name in [name for name in self._names if name.incarnation == former]:
            if await find_claims(session, [former]):
                continue
            if self._modes.locks and name.session is session:
                await release_lock(session, name.lock_key)
            self._names.remove(name)

    async def _register(self, session: Session) -> int:
        """Enter a new incarnation, whose number was never given out before: random, because a sequence may go back."""
        while True:
            incarnation = secrets.randbelow(2**63 - 1) + 1
            key = incarnation % 2**32 - 2**31
            if not self._modes.locks or await hold_lock(session, key):
                break
        self._names.append(_Name(incarnation, key, session))
        info = {"host": socket.gethostname(), "pid": os.getpid(), "python": platform.python_version()}
        await register_runner(
            session,
            incarnation=incarnation,
            lock_key=key,
            holds_lock=self._modes.locks,
            lease=self._vigilance.lease,
            name=self._own_name or f"{info['host']}:{info['pid']}",
            version=version_of_asyncjobs(),
            info=orjson.dumps(info).decode(),
        )
        return incarnation

    async def _look_for_requests(self, session: Session, incarnation: int) -> None:
        """Jobs to be cancelled: the row says so, whatever notifications said or missed."""
        claims = self._post.held_about()
        if not claims:
            return
        for job_id, cancel_requested in (await find_held(session, incarnation, claims)).items():
            if cancel_requested:
                self._post.cancel(job_id)

    async def _reconcile(self, session: Session, incarnation: int) -> None:
        """Find jobs that came to this runner in a reply it never heard. A new incarnation leaves them behind, unburnt."""
        verdict, left_behind = await self._reconciler.compare(session, incarnation, self._post)
        for former in left_behind:
            await self._give_back(session, former)
        if verdict is Verdict.UNANSWERED:
            self._post.unanswered()
        if verdict is not Verdict.AGREED:
            logger.warning("jobs were claimed whose reply was lost; they go back unburnt")
            self._doubt()

    # From the runner's side, on this loop.

    def doubt(self) -> None:
        """The runner asks for a new incarnation."""
        self._doubted.set()

    async def leave(self) -> None:
        """Leave the list of runners, if this one holds nothing any more, and end."""
        self._leaving.set()
        await self._left.wait()

    async def see_to(self, errand: Errand) -> None:
        """Have something done at once over the keeper's session, which is open, under its incarnation. Raises what it raises."""
        done = asyncio.get_running_loop().create_future()

        async def see(session: Session, incarnation: int) -> None:
            error: BaseException | None = None
            try:
                await errand(session, incarnation)
            except BaseException as raised:
                error = raised
                raise
            finally:
                if not done.done():
                    done.set_result(error)

        self._errands.append(see)
        self._sent.set()
        error = await done
        if error is not None:
            raise error

    async def outlive(self) -> Callable[[], None]:
        """Hold the lock until what is returned is called, or the process ends: a thread runs a job that nobody else may
        run meanwhile. Once for each such thread.
        """
        return keep_open(self._session) if self._session is not None else lambda: None
