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


async def run_in_thread(function: Callable[[], Any], name: str, on_end: Callable[[], None]) -> Any:
    """What *function* returns, from a thread with this task's context. *on_end* is called in the thread, at its very end.

    Cancelled, it stops waiting, and the thread runs on.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if isinstance(error, StopIteration):  # a future refuses it
            error = RuntimeError(f"the job raised {error!r}")
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as raised:
            error = raised
        on_end()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    JobThread(target=work, name=f"asyncjobs {name}", daemon=True).start()
    return await future
