"""How late the event loop is: a timer on it says how late it came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

BUSY = 0.020  #: seconds between looks while jobs run here


class Meter:
    """A timer that comes again and again. Made and started on the loop it measures."""

    def __init__(
        self, rest: float, is_busy: Callable[[], bool], tell: Callable[[float, float], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest = rest  #: seconds between looks when there is nothing to give way with
        self._is_busy = is_busy
        self._tell = tell  #: told how late it was, and when it was due
        self._timer: asyncio.TimerHandle | None = None
        self.due = 0.0  #: on the monotonic clock: when the timer should come
        self._next()

    def _next(self) -> None:
        pause = BUSY if self._is_busy() else self._rest
        self.due = time.monotonic() + pause
        self._timer = self._loop.call_later(pause, self._come)

    def _come(self) -> None:
        due = self.due
        late = time.monotonic() - due
        self._next()
        self._tell(max(0.0, late), due)

    def stop(self) -> None:
        """It comes no more."""
        if self._timer is not None:
            self._timer.cancel()
