"""Jobs that begin together enter the event loop a few at a time, so that requests come in between.

How many enter in one turn of the loop follows from how long the turns take: a turn shall take a millisecond.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

TURN = 0.001  #: seconds
MOST = 50  #: jobs a turn


class Turnstile:
    """Lets a few jobs a turn into the loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._width = 5.0  #: how many may enter in a turn
        self._entered = 0  #: in this turn
        self._turned_at = 0.0
        self._turning = False

    def enter(self) -> asyncio.Future[None] | None:
        """None: come in. Else: wait for this."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning, self._turned_at = True, time.perf_counter()
            loop.call_soon(self._turn, loop)
        if self._entered < int(self._width) and not self._waiting:
            self._entered += 1
            return None
        ticket: asyncio.Future[None] = loop.create_future()
        self._waiting.append(ticket)
        return ticket

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        took, self._turned_at = now - self._turned_at, now
        if self._entered >= int(
            self._width
        ):  # else the turn says nothing of how many would have been too many
            self._width = min(max(self._width * min(max(TURN / max(took, 1e-6), 0.5), 1.25), 1.0), MOST)
        self._entered = 0
        while self._waiting and self._entered < int(self._width):
            ticket = self._waiting.popleft()
            if not ticket.done():  # else it was cancelled
                ticket.set_result(None)
                self._entered += 1
        if self._entered:
            loop.call_soon(self._turn, loop)
        else:
            self._turning = False
