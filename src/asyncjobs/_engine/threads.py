"""Sync jobs run in threads of their own.

Not in anyio's: those share one limiter with the web framework's sync routes, and the interpreter waits for them at exit.
A sync job cannot be cancelled, so its thread is a daemon: when the process must end, it ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class JobThread(threading.Thread):
    """A sync job's thread."""


def threads_in_use() -> list[JobThread]:
    """The threads of sync jobs that have not ended: while there are any, the interpreter does not end well by itself."""
    return [thread for thread in threading.enumerate() if isinstance(thread, JobThread)]


class ThreadCall:
    """A call in a thread of its own, with this task's context. Raises RuntimeError when no thread can be had."""

    def __init__(self, function: Callable[[], Any], name: str, on_end: Callable[[], None]) -> None:
        self._function = function
        #: called on this loop when the thread has ended and nobody is still to take its result, unless the loop has ended
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        # Not the future's own exception: one that is a StopIteration or a GeneratorExit does not come through it.
        self._ended: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()
        self._over = asyncio.Event()
        self._watchers: list[Callable[[], None]] | None = []
        self._lock = threading.Lock()
        context = contextvars.copy_context()
        JobThread(target=context.run, args=(self._work,), name=f"asyncjobs {name}", daemon=True).start()

    async def result(self) -> Any:
        """What the function returned, or raises what it raised. Cancelled, it stops waiting, and the thread runs on."""
        try:
            value, error = await self._ended
        finally:
            if self._over.is_set():
                self._on_end()
        if error is not None:
            raise error
        return value

    async def over(self) -> None:
        """Wait until the thread has ended."""
        await self._over.wait()

    def when_over(self, tell: Callable[[], None]) -> None:
        """Call *tell* in the thread, at its very end; here and now when that was."""
        with self._lock:
            if self._watchers is not None:
                self._watchers.append(tell)
                return
        tell()

    def _work(self) -> None:
        value, error = None, None
        try:
            value = self._function()
        except BaseException as raised:
            error = raised
        with self._lock:
            watchers, self._watchers = self._watchers or [], None
        for tell in watchers:
            tell()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        self._over.set()
        if self._ended.done():  # cancelled: nobody waits for it any more
            self._on_end()
        else:
            self._ended.set_result((value, error))
