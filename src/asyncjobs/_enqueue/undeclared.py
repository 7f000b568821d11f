"""Say, once, that jobs are enqueued to a queue that no part of the application has registered."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from asyncjobs._model.job import Lane
from asyncjobs._model.queues import QueueRegistry

logger = logging.getLogger("asyncjobs")

MOST_NAMED = 1000  #: queues: who makes up names without end is told of the first


class Undeclared:
    """The queues that were warned about."""

    def __init__(self) -> None:
        self.served: frozenset[str] = frozenset()  #: named in `Jobs(queues={…})`, which is as good
        self._named: set[str] = set()

    def look_at(self, lanes: Iterable[Lane], registry: QueueRegistry) -> None:
        """Jobs are enqueued to *lanes*."""
        for queue, kind in lanes:
            if queue in registry or queue in self.served or queue in self._named:
                continue
            if len(self._named) < MOST_NAMED:
                self._named.add(queue)
                logger.warning(
                    "a job of kind %r is enqueued to queue %r, which no part of the application has registered: perhaps "
                    "nobody serves it; asyncjobs.queues.register().queue(%r) registers it",
                    kind,
                    queue,
                    queue,
                )
