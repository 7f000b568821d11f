"""The keeper's thread: a job that blocks the application's loop starves neither the proof of life nor the listening.

One thread, one loop of its own, one connection; begun and ended by the runner's task group. What the keeper says crosses to
the runner's loop (`post.Crossing`). Not a process: a child would hold the sockets of a parent that is dead.

The thread is a daemon. When it cannot be ended in time, because somebody's C code holds the interpreter or a name is being
looked up, the process ends without it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from asyncjobs._engine.identity import Identity
from asyncjobs._keeper.keeper import Errand, Keeper
from asyncjobs._keeper.post import Crossing, Post

T = TypeVar("T")

END_WITHIN = 1.0  #: seconds for the thread to end; it needs a millisecond


class KeeperThread:
    """A keeper in a thread of its own, as the runner sees it. Called on the runner's loop."""

    def __init__(self, keeper: Keeper, identity: Identity, post: Post) -> None:
        self._keeper = keeper
        self._identity = identity
        self._post = post
        self._loop: asyncio.AbstractEventLoop | None = None  #: the keeper's, while its thread runs
        self._previous: asyncio.Future[BaseException | None] | None = None

    async def run(self) -> None:
        """Keep, until told to leave. Raises RuntimeError when the keeper failed."""
        if self._previous is not None and not self._previous.done():
            await asyncio.wait(
                [self._previous]
            )  # this runner failed, and its thread could not be ended in time
        mine = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = mine.create_future()
        life = _Life(self._live, mine, ended)
        self._loop, self._previous = life.loop, ended
        self._identity.on_doubt = lambda: life.call(self._keeper.doubt)
        life.start()
        try:
            await asyncio.wait([ended])
        finally:
            self._loop = None
            life.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(END_WITHIN):
                await asyncio.wait([ended])
        error = ended.result()
        if error is not None:
            raise RuntimeError("the keeper failed") from error

    async def _live(self, runners_loop: asyncio.AbstractEventLoop) -> None:
        """The life of the thread, on its own loop."""
        self._keeper.begin(Crossing(self._post, runners_loop))
        await self._keeper.run()

    async def leave(self) -> None:
        """Leave the list of runners, if this one holds nothing any more, and end."""
        await self._ask(self._keeper.leave(), None)

    async def see_to(self, errand: Errand) -> None:
        """Have something done at once over the keeper's session, if there is one, under its incarnation."""
        await self._ask(self._keeper.see_to(errand), None)

    async def outlive(self) -> Callable[[], None]:
        """Hold the lock until what is returned is called, or the process ends: a thread runs a job that nobody else may
        run meanwhile. Once for each such thread.
        """
        with anyio.move_on_after(END_WITHIN):
            return await self._ask(self._keeper.outlive(), _nothing)
        return _nothing

    async def _ask(self, question: Coroutine[Any, Any, T], otherwise: T) -> T:
        """What the keeper answers, on its own loop."""
        answer = None
        if self._loop is not None:
            with suppress(RuntimeError):  # its loop is closed
                answer = asyncio.run_coroutine_threadsafe(question, self._loop)
        if answer is None:
            question.close()
            return otherwise
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            return otherwise  # the keeper ended before it could answer


class _Life:
    """A thread with a loop, on which one coroutine runs to its end."""

    def __init__(
        self,
        live: Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, None]],
        runners_loop: asyncio.AbstractEventLoop,
        ended: asyncio.Future[BaseException | None],
    ) -> None:
        # Whatever loop the application chose: the one every Python has, which asyncpg knows everywhere.
        self.loop = asyncio.SelectorEventLoop()
        self._live = live
        self._runners_loop = runners_loop
        self._ended = ended
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        try:
            threading.Thread(target=self._run, name="asyncjobs keeper", daemon=True).start()
        except BaseException:
            self.loop.close()
            raise

    def call(self, function: Callable[[], None]) -> None:
        """Have *function* called on this loop, if it still runs; from any thread."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)

    def cancel(self) -> None:
        """End it, whatever it is doing."""
        self.call(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._task = self.loop.create_task(self._live(self._runners_loop))
            self.loop.run_until_complete(self._task)
        except BaseException as raised:
            error = raised
        try:
            self.loop.run_until_complete(_tidy_up())
        finally:
            self.loop.close()
            with suppress(RuntimeError):  # the runner's loop is closed: nobody waits for this thread
                self._runners_loop.call_soon_threadsafe(self._tell, error)

    def _tell(self, error: BaseException | None) -> None:
        if not self._ended.done():
            self._ended.set_result(error)


def _nothing() -> None:
    pass


async def _tidy_up() -> None:
    """Cancel what is left, and let what was closed be closed."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    for _ in range(3):  # an aborted transport ends at the next turn, an encrypted one at the one after
        await asyncio.sleep(0)
