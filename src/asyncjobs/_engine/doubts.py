"""Locks that were held by somebody who was just ending when jobs went to wait for them: to be looked at again.

A job that completes itself in a transaction of its own ends when that does, and nobody is told who waits for its lock by then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

SOON, LATE = 0.010, 1.0  #: seconds: the first look, and when looking is the sweep's


class Doubts:
    """Keys of locks, and when to look at them."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._pause = SOON
        self._at = math.inf

    def add(self, keys: Iterable[str]) -> None:
        """Jobs went to wait for these."""
        new = set(keys) - self._keys
        if new:
            self._keys |= new
            self._pause = SOON
            self._at = time.monotonic() + SOON

    def are_due(self, now: float) -> bool:
        """It is time to look."""
        return now >= self._at

    def look_at(self, now: float) -> list[str]:
        """All of them, once more; at growing intervals, and not for ever."""
        keys = sorted(self._keys)
        self._pause *= 2
        if self._pause < LATE:
            self._at = now + self._pause
        else:
            self._keys, self._at = set(), math.inf
        return keys

    def wait(self) -> float:
        """Seconds until then."""
        return max(0.0, self._at - time.monotonic())
