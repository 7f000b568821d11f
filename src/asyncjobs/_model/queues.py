"""The queues of an application: each part of it registers its own, with their weights, and nobody keeps a list of all.

Weights order queues, higher first; priorities order the jobs inside a queue, lower first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import attrs

from asyncjobs._model.options import check_name, check_smallint
from asyncjobs.errors import InvalidOption

DEFAULT_WEIGHT = 100
HEAVIEST = 1_000_000


@attrs.frozen
class Queue:
    """A registered queue."""

    name: str
    weight: int = DEFAULT_WEIGHT  #: higher first
    priority: int | None = None  #: of its jobs that say none themselves
    aliases: frozenset[str] = frozenset()  #: the names it had before, under which jobs may still wait

    def merged(self, other: Queue) -> Queue:
        """Of two parts that register one queue, the higher weight wins, and the more urgent priority."""
        urgent = [each.priority for each in (self, other) if each.priority is not None]
        return Queue(
            self.name,
            max(self.weight, other.weight),
            min(urgent, default=None),
            self.aliases | other.aliases,
        )


class QueueRegistry:
    """Which queues there are. `asyncjobs.queues` is the one of this process; `Jobs(queues=…)` takes one of your own."""

    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self.todays: dict[str, str] = {}  #: former names of queues, and today's

    def register(self, app: str | None = None, /, **weights: int) -> AppQueues:
        """The queues of one part of the application, whose names begin with its own: `register("account", default=100,
        refresh=-5000)` has account_default and account_refresh. Without *app* names stay as they are.
        """
        queues = AppQueues(self, app)
        for name, weight in weights.items():
            queues.queue(name, weight)
        return queues

    def add(self, queue: Queue) -> None:
        """Know *queue*. Registered twice, the higher weight wins. Raises InvalidOption for a name that two would have."""
        if queue.name in self.todays:
            raise InvalidOption(
                f"queue {queue.name!r} is what {self.todays[queue.name]!r} was called before (aliases=); take it out there"
            )
        for alias in queue.aliases:
            if alias in self._queues or alias == queue.name:
                raise InvalidOption(
                    f"queue {alias!r} is registered itself; it is no former name of {queue.name!r}"
                )
            if self.todays.get(alias, queue.name) != queue.name:
                raise InvalidOption(
                    f"queues {self.todays[alias]!r} and {queue.name!r} were both called {alias!r} before; take it out of one"
                )
        self.todays.update(dict.fromkeys(queue.aliases, queue.name))
        known = self._queues.get(queue.name)
        self._queues[queue.name] = queue if known is None else known.merged(queue)

    def clear(self) -> None:
        """Forget them all, for tests."""
        self._queues.clear()
        self.todays.clear()

    def names_of(self, queue: str) -> list[str]:
        """What *queue* is called today, and what it was called before."""
        queue = self.todays.get(queue, queue)
        return [queue, *sorted(former for former, today in self.todays.items() if today == queue)]

    def weight_of(self, name: str) -> int:
        """The weight of a queue; that of an undeclared one is the default."""
        known = self._queues.get(self.todays.get(name, name))
        return DEFAULT_WEIGHT if known is None else known.weight

    def priority_of(self, name: str) -> int:
        """The priority of jobs in it that say none."""
        known = self._queues.get(name)
        return 0 if known is None or known.priority is None else known.priority

    @property
    def is_weighted(self) -> bool:
        """Whether some queue comes before another."""
        return any(queue.weight != DEFAULT_WEIGHT for queue in self._queues.values())

    def __contains__(self, name: object) -> bool:
        return name in self._queues or name in self.todays

    def __iter__(self) -> Iterator[Queue]:
        """The heaviest first."""
        return iter(sorted(self._queues.values(), key=lambda queue: (-queue.weight, queue.name)))

    def __len__(self) -> int:
        return len(self._queues)

    def __repr__(self) -> str:
        return f"<queues {', '.join(f'{queue.name}: {queue.weight}' for queue in self) or 'none'}>"


class AppQueues:
    """The queues of one part of the application."""

    def __init__(self, registry: QueueRegistry, app: str | None) -> None:
        self._registry = registry
        self._app = None if app is None else check_app(app)

    def queue(
        self,
        name: str,
        weight: int = DEFAULT_WEIGHT,
        *,
        priority: int | None = None,
        aliases: Iterable[str] = (),
    ) -> Self:
        """Register `<app>_<name>`. *priority*: of its jobs that say none themselves. *aliases*: what it was called before, in
        full: jobs that wait under such a name run as those of this queue, and nothing new is stored under it.
        """
        return self._add(full_name(self._app, check_name(name, "queue")), weight, priority, aliases)

    def full_queue(
        self,
        name: str,
        weight: int = DEFAULT_WEIGHT,
        *,
        priority: int | None = None,
        aliases: Iterable[str] = (),
    ) -> Self:
        """Register *name* as it is."""
        return self._add(check_name(name, "queue"), weight, priority, aliases)

    def _add(self, name: str, weight: int, priority: int | None, aliases: Iterable[str]) -> Self:
        if isinstance(aliases, str):
            raise InvalidOption(
                f"aliases={aliases!r} is one queue, and aliases are a list of them; write aliases=[{aliases!r}]"
            )
        former = frozenset(check_name(alias, "alias") for alias in aliases)
        _check_weight(weight, name)
        if priority is not None:
            check_smallint(priority, "priority", -32768)
        self._registry.add(Queue(name, weight, priority, former))
        return self


def _check_weight(weight: object, name: str) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int) or abs(weight) > HEAVIEST:
        raise InvalidOption(
            f"weight={weight!r} of queue {name!r} is not a whole number from -{HEAVIEST} to {HEAVIEST}"
        )


queues = QueueRegistry()  #: of this process


def check_app(app: object) -> str:
    """The name of a part of the application."""
    return check_name(app, "app")


def full_name(app: str | None, queue: str) -> str:
    """The name of *queue* in *app*, which may be a package: `app=__package__`. Raises InvalidOption."""
    return queue if app is None else check_name(f"{app.replace('.', '_')}_{queue}", "queue")


def place_of(options: Mapping[str, Any], registry: QueueRegistry) -> tuple[str, int]:
    """The queue and the priority of a job with these options, all merged."""
    queue: str = options["queue"]
    if options.get("app") is not None:
        queue = full_name(options["app"], queue)
    if registry.todays:
        queue = registry.todays.get(queue, queue)
    priority = options.get("priority")
    return queue, registry.priority_of(queue) if priority is None else priority
