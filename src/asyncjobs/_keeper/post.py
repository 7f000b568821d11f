"""What the keeper tells the rest of the runner, and what it asks: on another loop, which a job may be blocking."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import anyio
import attrs

from asyncjobs._store.claims import Claim

logger = logging.getLogger("asyncjobs")

T = TypeVar("T")

A_MOMENT = 0.2  #: seconds the runner's loop has to answer; one that takes longer is busy or blocked


@attrs.frozen
class Account:
    """What the runner knows of its claims. One is under way at a time: the last one sent, until it is answered."""

    held: Mapping[int, int]  #: the token of each claim it answers for, by the job's id
    sent: int  #: how many claims were ever sent
    answered: int  #: of them, how many are over: what they brought is held, or they failed


class Post(Protocol):
    """The runner, as the keeper sees it. Called on the runner's loop, unless it says otherwise; quick, and never raising."""

    def ready(self, queue: str) -> None:
        """A queue has jobs."""

    def finished(self, job_id: int) -> None:
        """A job somebody awaits is final."""

    def cancel(self, job_id: int) -> None:
        """Somebody asks to stop a job."""

    def queues_changed(self) -> None:
        """A queue was paused or resumed."""

    def schedules_changed(self) -> None:
        """A schedule was created, changed or resumed."""

    def held(self) -> Sequence[Claim]:
        """Every claim this runner answers for. In any thread, at any moment; one too many at worst."""

    def account(self) -> Account:
        """The same, exactly, and how far its claims have come."""

    def lost(self, claims: Sequence[Claim]) -> None:
        """These are not this runner's any more: stop them, and write nothing for them."""

    def cut_off(self) -> None:
        """Others may soon take for dead who could not say that it lives: stop what runs, before they run it."""

    def unanswered(self) -> None:
        """The claim under way is done, and its reply does not come: give its connection up."""

    def assume(self, incarnation: int, losses: int) -> None:
        """The runner is *incarnation* from now on, unless that was lost since."""

    def deaf(self, *, is_deaf: bool) -> None:
        """Whether notifications come through."""


class Crossing:
    """The way from the keeper's thread to the runner's loop, where everything arrives in the order it was said.

    While that loop is blocked, what is said waits. A hint that is waiting already is not said again, so a flood of
    notifications is a handful of words when the loop comes to itself.
    """

    def __init__(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        self._post = post
        self._loop = loop
        self._said: dict[Hashable, Callable[[], None]] = {}
        self._one_at_a_time = threading.Lock()
        self._numbers = itertools.count()

    def ready(self, queue: str) -> None:
        self._say(("ready", queue), lambda: self._post.ready(queue))

    def finished(self, job_id: int) -> None:
        self._say(("finished", job_id), lambda: self._post.finished(job_id))

    def cancel(self, job_id: int) -> None:
        self._say(("cancel", job_id), lambda: self._post.cancel(job_id))

    def queues_changed(self) -> None:
        self._say("queues", self._post.queues_changed)

    def schedules_changed(self) -> None:
        self._say("schedules", self._post.schedules_changed)

    def lost(self, claims: Sequence[Claim]) -> None:
        self._say(next(self._numbers), lambda: self._post.lost(claims))

    def cut_off(self) -> None:
        self._say(next(self._numbers), self._post.cut_off)

    def unanswered(self) -> None:
        self._say(next(self._numbers), self._post.unanswered)

    def assume(self, incarnation: int, losses: int) -> None:
        self._say(next(self._numbers), lambda: self._post.assume(incarnation, losses))

    def deaf(self, *, is_deaf: bool) -> None:
        self._say(next(self._numbers), lambda: self._post.deaf(is_deaf=is_deaf))

    async def account(self) -> Account | None:
        """What the runner knows of its claims; None when its loop does not answer."""
        return await self._ask(self._post.account)

    async def held(self) -> Sequence[Claim]:
        """Every claim the runner answers for, whether or not its loop is blocked."""
        account = await self.account()
        if account is None:
            return self._post.held()
        return [Claim(job_id, token) for job_id, token in account.held.items()]

    def held_about(self) -> Sequence[Claim]:
        """The same, at once; one of them may have just ended."""
        return self._post.held()

    async def _ask(self, question: Callable[[], T]) -> T | None:
        mine = asyncio.get_running_loop()
        answer: asyncio.Future[T | None] = mine.create_future()

        def give(said: T | None) -> None:
            if not answer.done():
                answer.set_result(said)

        def ask() -> None:
            said = None
            try:
                said = question()
            finally:
                with suppress(RuntimeError):  # the keeper has ended meanwhile
                    mine.call_soon_threadsafe(give, said)

        with suppress(RuntimeError), anyio.move_on_after(A_MOMENT):
            self._loop.call_soon_threadsafe(ask)
            return await answer
        return None

    def _say(self, what: Hashable, tell: Callable[[], None]) -> None:
        with self._one_at_a_time:
            is_first = not self._said
            self._said.setdefault(what, tell)
        if is_first:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._one_at_a_time:
            said, self._said = self._said, {}
        for tell in said.values():
            try:
                tell()
            except Exception:
                logger.exception("what the keeper said was not understood, which is a fault of asyncjobs")


def hint(tell: Callable[[str], None]) -> Callable[[Any, int, str, object], None]:
    """A payload is a hint: one that is not ours is ignored, and a listener that raised would be deaf from then on."""

    def heard(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        with suppress(ValueError):
            tell(str(payload))

    return heard
