"""Jobs enter the event loop one after the other, a moment apart, so that requests come in between.

Jobs that begin together go on together: twenty that were claimed at once wake at once from what they wait for, and a request
that takes ten turns of the loop waits ten times for all of them. Entering apart, they stay apart.

How many enter in a moment follows from how much of its time the loop's thread is at work: more while it has room, fewer when
it has not, and never so many at once that a request would notice. Lateness says less: a loop is also late where the machine
gives its processors to others, and does not get better when jobs wait. Measured by `python -m bench requests`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import attrs

MOMENT = 0.004  #: seconds
ROOM, FULL = 0.28, 0.33  #: of the time: below the one more may enter, above the other fewer
MORE, FEWER = 1.03, 0.96  #: from one moment to the next
WEIGHT = 0.05  #: of the newest moment: a request alone may fill one
BURST = 0.0012  #: seconds of work that may enter together
LEAST, MOST = 0.7, 50.0  #: jobs in a moment
HELD = 0.020  #: seconds a moment may last before requests, which waited as long, go first
GATHER = 0.020  #: seconds in which freed slots gather, and outcomes: a statement for each would cost the loop as much as one for all
MOST_IN_LINE = 50  #: jobs of a pool: what is in line here nobody else can run


@attrs.define
class Flow:
    """How many jobs enter in a moment."""

    width: float = 1.0
    busy: float = 0.0  #: of the time the loop's thread is at work, lately
    entered: float = 1.0  #: jobs in a moment, lately

    def tell(self, entered: int, worked: float, elapsed: float) -> None:
        """So many entered, and so long the thread had a processor, of so many seconds in which all who might enter did."""
        self.busy += WEIGHT * (min(worked / elapsed, 1.0) - self.busy)
        self.entered += WEIGHT * (entered - self.entered)
        if self.busy > FULL:
            self.width = max(self.width * FEWER, LEAST)
        elif self.busy < ROOM:
            self.width = min(self.width * MORE, MOST)
        # What the application does is put down to the jobs: the more that is, the fewer of them come together.
        together = BURST * self.entered / max(self.busy * elapsed, 1e-6)
        self.width = min(self.width, max(together, 1.0))


class Turnstile:
    """Lets a few jobs at a time into the loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._flow = Flow()
        self._room = 1.0  #: how many may enter now
        self._since = 0.0  #: when the moment began: on the monotonic clock
        self._worked = 0.0  #: how long this thread had, when it began
        self._entered = 0  #: since then
        self._lets_pass = False  #: those who waited for a loop that was held
        self.is_closed = False  #: nobody enters until it is quick again
        self._turns = False  #: there is a timer

    def enter(self) -> asyncio.Future[None] | None:
        """None: come in. Else: wait for this."""
        loop = asyncio.get_running_loop()
        if not self._turns:
            self._turns = True
            self._turn_later(loop)
        if self._room >= 1 and not self._waiting and not self.is_closed:
            self._room -= 1
            self._entered += 1
            return None
        ticket: asyncio.Future[None] = loop.create_future()
        self._waiting.append(ticket)
        return ticket

    def _turn_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._entered = 0
        self._since, self._worked = time.monotonic(), time.thread_time()
        loop.call_later(MOMENT, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        elapsed = time.monotonic() - self._since
        if self._waiting:  # else nobody can say whether more would be too many
            self._flow.tell(self._entered, time.thread_time() - self._worked, elapsed)
        # Requests that waited for a loop that was held take several turns of it: they go first, once.
        self._lets_pass = elapsed > HELD and not self._lets_pass
        came = 0 if self.is_closed or self._lets_pass else self._let_in(elapsed / MOMENT)  # timers come late
        self._turns = bool(self._waiting) or self._room < self._most
        if self._turns:
            self._turn_later(loop)
            self._entered = came

    @property
    def _most(self) -> float:
        """Room that nobody came for is not saved up."""
        return max(self._flow.width, 1.0)

    def _let_in(self, moments: float) -> int:
        """Those who may enter after so many moments; how many they are."""
        self._room = min(self._room + self._flow.width * moments, self._most)
        came = 0
        while self._waiting and self._room >= 1:
            ticket = self._waiting.popleft()
            if not ticket.done():  # else it was cancelled
                ticket.set_result(None)
                self._room -= 1
                came += 1
        return came
