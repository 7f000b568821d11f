"""Hear the server's signals first, and leave them to the server.

A web server that is told to stop waits for open requests before it shuts the application down: a stream may hold that up for
minutes, in which no more jobs should be claimed. So the runner hears the signal, stops claiming, and passes it on to whoever
handled it; at the end it puts that handler back. A second Ctrl-C means "now": the server cannot tell us so, because its part
is to wait for our lifespan.
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
def heard_first(tell: Callable[[], None], hurry: Callable[[], None]) -> Iterator[None]:
    """Call *tell* on this loop when the process is asked to stop, *hurry* at a second SIGINT.

    Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    heard: list[int] = []

    def hear(number: int) -> None:
        again = number == signal.SIGINT and number in heard
        heard.append(number)
        if not loop.is_closed():
            loop.call_soon_threadsafe(hurry if again else tell)

    mine: dict[signal.Signals, tuple[Any, Any]] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        theirs = signal.getsignal(number)
        # Where nobody handles it, neither do we: the process ends as it would without us.
        if callable(theirs):
            handler = _in_front_of(theirs, hear)
            signal.signal(number, handler)
            mine[number] = (handler, theirs)
    try:
        yield
    finally:
        for number, (handler, theirs) in mine.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, theirs)


def _in_front_of(
    theirs: Callable[[int, FrameType | None], Any], hear: Callable[[int], None]
) -> Callable[[int, FrameType | None], Any]:
    def handle(number: int, frame: FrameType | None) -> Any:
        hear(number)
        return theirs(number, frame)

    return handle
