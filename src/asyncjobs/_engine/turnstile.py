"""Jobs enter the event loop a few at a time, a moment apart, so that requests come in between.

Jobs that begin together go on together: twenty that were claimed at once wake at once from what they wait for, and a request
waits for all of them. Entering apart, they stay apart. How many enter at a time follows from whether the loop is on time a
moment later: slowly more while it is, soon fewer when it is not.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

APART = 0.003  #: seconds
ON_TIME, LATE = 0.001, 0.0015  #: seconds; epoll counts in milliseconds
LITTLE, MUCH = 0.0005, 0.001  #: seconds of work from one moment to the next
MORE, FEWER = 1.02, 0.7  #: about one moment in eighteen is late when it has settled
MOST_IN_LINE = 50  #: jobs of a pool: what is in line here nobody else can run
LEAST, MOST = 1.0, 50.0  #: jobs at a time


def after(width: float, late: float, worked: float) -> float:
    """How many enter at a time, when so many did, the loop was so late a moment after, and its thread had worked so long.

    Late without having worked, it waited for a processor that others have.
    """
    if late > LATE and worked > MUCH:
        return max(width * FEWER, LEAST)
    return min(width * MORE, MOST) if late < ON_TIME or worked < LITTLE else width


class Turnstile:
    """Lets a few jobs at a time into the loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._width = 2.0  #: how many enter at a time
        self._room = 2.0  #: how many may enter now
        self._due = 0.0  #: when more may: on the monotonic clock
        self._worked = 0.0  #: how long this thread had, when that was said
        self._turns = False  #: there is a timer

    def enter(self) -> asyncio.Future[None] | None:
        """None: come in. Else: wait for this."""
        loop = asyncio.get_running_loop()
        if not self._turns:
            self._turns = True
            self._turn_later(loop)
        if self._room >= 1 and not self._waiting:
            self._room -= 1
            return None
        ticket: asyncio.Future[None] = loop.create_future()
        self._waiting.append(ticket)
        return ticket

    def _turn_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due, self._worked = time.monotonic() + APART, time.thread_time()
        loop.call_later(APART, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        late = time.monotonic() - self._due
        if self._room < 1:  # else nobody can say whether more would be too many
            self._width = after(self._width, late, time.thread_time() - self._worked)
        self._room = min(self._room + self._width, max(self._width, 1.0))
        while self._waiting and self._room >= 1:
            ticket = self._waiting.popleft()
            if not ticket.done():  # else it was cancelled
                ticket.set_result(None)
                self._room -= 1
        self._turns = bool(self._waiting) or self._room < max(self._width, 1.0)
        if self._turns:
            self._turn_later(loop)
