"""What a runner takes: of which queues, in how many slots, of which priorities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from asyncjobs._engine.claimer import Rhythm
from asyncjobs._engine.slots import Pool, Queues, make_pools
from asyncjobs._model.durations import Duration, seconds
from asyncjobs._model.options import check_smallint
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._model.urgency import Slots, urgency
from asyncjobs.errors import InvalidOption

SHORTEST_POLL = 0.01


@attrs.frozen(kw_only=True)
class Serving:
    """As `Jobs(…)` and `running(…)` say it."""

    queues: Queues | QueueRegistry | None
    slots: Slots | None
    min_priority: int | None
    max_priority: int | None
    reserved: int
    registry: QueueRegistry

    def __attrs_post_init__(self) -> None:
        check_smallint(self.reserved, "reserved", 0)
        if not isinstance(self.queues, QueueRegistry):  # whose queues may be registered later
            self.pools()

    def pools(self) -> list[Pool]:
        """Its slots, empty. Raises InvalidOption for what makes no sense."""
        queues = self.queues
        if isinstance(queues, QueueRegistry):
            queues = {queue.name: None for queue in queues}
            if not queues:
                raise InvalidOption("no queue is registered; import the modules that register theirs")
        pools = make_pools(
            queues,
            self.slots,
            urgency=urgency(self.min_priority, self.max_priority),
            reserved=self.reserved if self.registry.is_weighted else 0,
        )
        if self.registry.todays:  # who serves a queue serves what waits under its former names
            for pool in pools:
                pool.queues = frozenset(name for each in pool.queues for name in self.registry.names_of(each))
        return pools

    @property
    def named(self) -> frozenset[str]:
        """The queues that are named, to be served."""
        if not isinstance(self.queues, Mapping):
            return frozenset()
        return frozenset(name for key in self.queues for name in (key if isinstance(key, tuple) else (key,)))

    def instead(
        self,
        queues: Queues | None,
        slots: Slots | None,
        min_priority: int | None,
        max_priority: int | None,
    ) -> Serving:
        """As this, but for what is said."""
        served = attrs.evolve(
            self,
            queues=queues,
            slots=slots,
            min_priority=self.min_priority if min_priority is None else min_priority,
            max_priority=self.max_priority if max_priority is None else max_priority,
        )
        own = self.queues if isinstance(self.queues, Mapping) else {}
        if queues is None and slots is None:
            return attrs.evolve(served, queues=self.queues, slots=self.slots)
        if queues is None:
            return attrs.evolve(served, queues=dict.fromkeys(own) or self.queues)
        if slots is None:
            merged: dict[Any, int | None] = {
                queue: own.get(queue) if size is None else size for queue, size in queues.items()
            }
            return attrs.evolve(served, queues=merged, slots=self.slots if None in merged.values() else None)
        return served


def rhythm(poll: Duration | None) -> Rhythm:
    """How often to look for jobs of which no notification told. Raises InvalidOption."""
    if poll is None:
        return Rhythm()
    every = seconds(poll, "poll")
    if every < SHORTEST_POLL:
        raise InvalidOption(f"poll={poll!r} is too often; look every {SHORTEST_POLL} s at most")
    return Rhythm(poll=every, poll_from=min(Rhythm().poll_from, every), poll_to=every)
