"""How many slots are open, by how late the event loop is: fewer at once when it lags, one more at a time when it does not.

This is for jobs that hold the loop, or the application's connections; those that wait most of the time are kept apart by the
turnstile. A loop may be late because of the jobs, or because of the machine, and only the first gets better when fewer jobs
run. So a little lateness counts when the loop's own thread is at work: else it waits for a processor others have.

Pure: told what was measured, it says what share of the slots may be filled.
"""

from __future__ import annotations

import attrs

WINDOW = 0.2  #: seconds that are looked at together
HARD = 0.1  #: of the lag: from there on fewer jobs run, if the loop is full
FULL = 0.6  #: of the time its thread has the processor: there is no room for more
CUT = 0.7  #: what is left of the share when it lagged
STEP = 0.1  #: what is added to it when it did not
LEAST = 0.05  #: what jobs keep while it is full
TRICKLE = (
    10  #: windows after which something runs however late the loop is: else jobs would stand still for ever
)


@attrs.frozen
class Sample:
    """The loop, looked at once."""

    late: float  #: seconds
    elapsed: float  #: seconds since the last look
    worked: float = 0.0  #: how many of those its thread had the processor
    starved: bool = False  #: the application's pool has no connection left


@attrs.define
class Throttle:
    """Opens and closes slots."""

    lag: float  #: seconds; at it, nothing begins
    share: float = 1.0  #: of the slots: how many may be filled
    _window: list[Sample] = attrs.field(factory=list)
    _before: float = 1.0  #: the share when all were closed
    _paused: int = 0  #: windows since then

    def tell(self, sample: Sample) -> bool:
        """What was seen. True when the share has changed."""
        self._window.append(sample)
        elapsed = sum(each.elapsed for each in self._window)
        if sample.late < self.lag and elapsed < WINDOW:
            return False
        late = sum(each.late for each in self._window) / len(self._window)
        busy = sum(each.worked for each in self._window) / elapsed if elapsed else 0.0
        starved = 2 * sum(each.starved for each in self._window) > len(self._window)
        self._window.clear()
        before = self.share
        self.share = self._next(sample.late if sample.late >= self.lag else late, busy, starved=starved)
        return self.share != before

    def _next(self, late: float, busy: float, *, starved: bool) -> float:
        if late >= self.lag:
            if not self._paused:
                self._before = self.share
            self._paused += 1
            return LEAST if self._paused % TRICKLE == 0 else 0.0
        if self._paused:
            if late > self.lag / 2:
                return 0.0  # what closed them at the one end opens them at the other
            self._paused = 0
            return max(self._before * CUT, LEAST)
        if starved or late > self.lag / 2 or (late > HARD * self.lag and busy > FULL):
            return max(self.share * CUT, LEAST)
        return min(self.share + STEP, 1.0)
