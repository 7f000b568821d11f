"""What a claimer knows of limited queues. A full one is like a paused one, until there is room."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterable

from asyncjobs._model.job import ClaimedJob
from asyncjobs._store.limits import Allowance


class Limits:
    """How many jobs of each limited queue may begin, as far as is known here."""

    def __init__(self) -> None:
        self._allowed: dict[str, int] = {}
        self._opens_at = math.inf  #: a queue has a token then

    def __contains__(self, queue: object) -> bool:
        return queue in self._allowed

    def __bool__(self) -> bool:
        return bool(self._allowed)

    @property
    def queues(self) -> list[str]:
        """Those with limits."""
        return list(self._allowed)

    @property
    def closed(self) -> frozenset[str]:
        """The queues nothing may begin in now."""
        return frozenset(queue for queue, jobs in self._allowed.items() if jobs < 1)

    def saw(self, now: float, allowances: Iterable[Allowance]) -> None:
        """What a look found."""
        found = list(allowances)
        self._allowed = {each.queue: each.jobs for each in found}
        waits = [each.seconds for each in found if each.seconds is not None]
        self._opens_at = now + max(0.001, min(waits)) if waits else math.inf

    def room(self, queue: str, room: int) -> int:
        """How many of *room* jobs may come from *queue*."""
        return min(room, self._allowed.get(queue, room))

    def took(self, jobs: Iterable[ClaimedJob], admitted: Container[int]) -> None:
        """*jobs* of limited queues were claimed; who was refused tells that the queue is full."""
        for job in jobs:
            if job.queue in self._allowed:
                self._allowed[job.queue] = self._allowed[job.queue] - 1 if job.id in admitted else 0

    def is_due(self, now: float) -> bool:
        """It is time to look again."""
        return now >= self._opens_at

    def wait(self) -> float:
        """Seconds until then."""
        return max(0.0, self._opens_at - time.monotonic())
