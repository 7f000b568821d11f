"""How many slots are open, by how late the event loop is: fewer at once when it lags, one more at a time when it does not.

Pure: told what was measured, it says what share of the slots may be filled.
"""

from __future__ import annotations

import attrs

WINDOW = 10  #: samples that are looked at together
EASE = 0.1  #: of the lag that is too much: from there on fewer jobs run
CUT = 0.7  #: what is left of the share when it lagged
STEP = 0.05  #: what is added to it when it did not
LEAST = 0.05  #: as long as nothing pauses it
TRICKLE = (
    10  #: windows after which something runs however late the loop is: else jobs would stand still for ever
)


@attrs.define
class Throttle:
    """Opens and closes slots."""

    lag: float  #: seconds; at it, nothing begins
    share: float = 1.0  #: of the slots: how many may be filled
    _late: float = 0.0  #: the sum of this window
    _starved: int = 0  #: samples of it in which no connection was left
    _samples: int = 0
    _paused: int = 0  #: windows since nothing may begin

    def sample(self, late: float, *, starved: bool = False) -> bool:
        """The loop was so late, and the application's pool had nothing left or had. True when the share has changed."""
        self._late += late
        self._starved += starved
        self._samples += 1
        if late < self.lag and self._samples < WINDOW:
            return False
        mean, is_starved = self._late / self._samples, 2 * self._starved > self._samples
        self._late, self._starved, self._samples = 0.0, 0, 0
        before = self.share
        self.share = self._next(mean, is_starved=is_starved)
        return self.share != before

    def _next(self, late: float, *, is_starved: bool) -> float:
        if late >= self.lag:
            self._paused += 1
            return LEAST if self._paused % TRICKLE == 0 else 0.0
        if late > EASE * self.lag and self.share == 0.0 and self._paused % TRICKLE:
            self._paused += 1
            return 0.0  # what paused at the one end resumes at the other
        self._paused = 0
        if late > EASE * self.lag or is_starved:
            return max(LEAST, self.share * CUT)
        return (
            min(1.0, max(LEAST, self.share + STEP)) if late < EASE * self.lag / 2 else max(LEAST, self.share)
        )
