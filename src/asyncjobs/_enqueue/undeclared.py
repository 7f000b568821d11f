"""Say, once, that jobs are enqueued to a queue that no part of the application has registered."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches

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
            if self.is_known(queue, registry) or queue in self._named:
                continue
            if len(self._named) < MOST_NAMED:
                self._named.add(queue)
                logger.warning(
                    "a job of kind %r is enqueued to queue %r, which no part of the application has registered: perhaps "
                    "nobody serves it%s",
                    kind,
                    queue,
                    self._advice(queue, registry),
                )

    def is_known(self, queue: str, registry: QueueRegistry) -> bool:
        """Whether somebody has said that there is *queue*."""
        return queue in registry or queue in self.served

    def doubt(self, queue: str, registry: QueueRegistry) -> str:
        """What to say of *queue*, which is named where nothing is stored."""
        return f"no part of the application has registered queue {queue!r}, and no job goes there{self._advice(queue, registry)}"

    def _advice(self, queue: str, registry: QueueRegistry) -> str:
        near = get_close_matches(queue, [*(each.name for each in registry), *self.served], 1)
        meant = f"; did you mean {near[0]!r}? If not, " if near else "; "
        return f"{meant}asyncjobs.queues.register().queue({queue!r}) registers it"
