"""How long jobs of a kind take and how big they are, and what follows: how many may be prefetched.

Prefetched jobs are hidden from idle peers, so at most 50 ms of work waits here, and none at all where a job takes 20 ms:
there a round trip more costs nothing that anybody could notice. That is a forecast. Where it is wrong, the jobs of a quick
kind having turned slow or big, what waits too long or is too much goes back, and the kind has to earn its trust again.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

LONGEST_WAIT = 0.050  #: seconds of work in the buffer
SLOW = 0.020  #: seconds from which on a kind is not prefetched
MOST_JOBS = 500
MOST_BYTES = 4_000_000
TOO_LONG = 0.250  #: seconds after which what was to wait for 50 ms goes back
_WEIGHT = 0.2  #: of the newest observation


@attrs.define
class _Kind:
    seconds: float
    bytes: float


class Pace:
    """What has been observed of each kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def observe(self, kind: str, seconds: float, size: int) -> None:
        """A job of *kind* took so long and had so many bytes of inputs."""
        known = self._kinds.get(kind)
        if known is None:
            self._kinds[kind] = _Kind(seconds, size)
        else:
            known.seconds += _WEIGHT * (seconds - known.seconds)
            known.bytes += _WEIGHT * (size - known.bytes)

    def surprise(self, kind: str, seconds: float = 0.0, size: int = 0) -> None:
        """Jobs of *kind* take longer, or are bigger, than was thought."""
        known = self._kinds.setdefault(kind, _Kind(0.0, 0.0))
        known.seconds = max(known.seconds, seconds)
        known.bytes = max(known.bytes, size)

    def prefetch(self, kinds: Iterable[str], slots: int) -> int:
        """How many jobs of these kinds may wait in a buffer of so many slots; the slowest and the biggest decide."""
        observed = [self._kinds.get(kind) for kind in kinds]
        if not observed or None in observed:  # what was never seen may be slow
            return 0
        known = [each for each in observed if each is not None]
        slowest = max(each.seconds for each in known)
        biggest = max(each.bytes for each in known)
        if slowest >= SLOW:
            return 0
        by_time = LONGEST_WAIT * slots / max(slowest, 1e-6)
        by_bytes = MOST_BYTES / max(biggest, 1)
        return int(min(MOST_JOBS, by_time, by_bytes))
