"""Hear the server's signals first, and leave them to the server.

A web server that is told to stop waits for open requests before it shuts the application down: a stream may hold that up for
minutes, in which no more jobs should be claimed. So the runner hears the signal, stops claiming, and passes it on to whoever
handled it; at the end it puts that handler back.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def heard_first(tell: Callable[[], None]) -> Iterator[None]:
    """Call *tell* on this loop when the process is asked to stop. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    mine: dict[int, tuple[Any, Any]] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        theirs = signal.getsignal(number)
        if callable(theirs):  # where nobody handles it, neither do we: the process ends as it would without us
            handler = _in_front_of(theirs, loop, tell)
            signal.signal(number, handler)
            mine[number] = (handler, theirs)
    try:
        yield
    finally:
        for number, (handler, theirs) in mine.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, theirs)


def _in_front_of(
    theirs: Callable[[int, FrameType | None], Any], loop: asyncio.AbstractEventLoop, tell: Callable[[], None]
) -> Callable[[int, FrameType | None], Any]:
    def handle(number: int, frame: FrameType | None) -> Any:
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell)
        return theirs(number, frame)

    return handle
