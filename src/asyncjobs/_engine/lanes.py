"""What the claimer remembers of the lanes it claims from: which there are, and how far it has claimed each.

The mark keeps a claim from stepping over the dead entries of jobs long finished, which somebody's long transaction keeps
in the index (6 times the rate under such a transaction). A job may come to lie behind the mark: committed late, retried,
of a more urgent priority. So marks are forgotten often, and before anybody believes a lane is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import attrs

from asyncjobs._engine.limits import Limits
from asyncjobs._engine.slots import EVERY_QUEUE, Pool
from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._store.claims import FROM_THE_START, LaneRequest, Mark
from asyncjobs._store.rows import claim_order

FORGET_AFTER = 60.0  #: seconds without a job


@attrs.define
class _Known:
    mark: Mark
    seen_at: float


class Lanes:
    """The lanes this runner may claim from."""

    def __init__(self, pools: Sequence[Pool], registry: QueueRegistry | None = None) -> None:
        self._pools = sorted(pools, key=_narrowness)
        self._registry = registry if registry is not None and registry.is_weighted else None
        self._start = FROM_THE_START._replace(priority=min(pool.urgency.first for pool in pools))
        self._known: dict[Lane, _Known] = {}
        self._served: dict[str, int] = {}  #: by queue, the claim that served it last
        self._claims = 0
        self.paused_by_hand: frozenset[str] = frozenset()
        self.limits = Limits()

    @property
    def paused(self) -> frozenset[str]:
        """The queues nothing is to be claimed from: somebody paused them, or they are full."""
        return self.paused_by_hand | self.limits.closed if self.limits else self.paused_by_hand

    def pools_of(self, queue: str) -> Sequence[Pool]:
        """The pools in which jobs of *queue* run here, those with the least choice first."""
        return [pool for pool in self._pools if pool.serves(queue)]

    def are_served(self, queue: str) -> bool:
        """Whether jobs of *queue* run here."""
        return any(pool.serves(queue) for pool in self._pools)

    def in_order(self, jobs: Sequence[ClaimedJob]) -> Sequence[ClaimedJob]:
        """*jobs* in the order they are to begin: the heavier queue first, those of one weight in turns."""
        if len(self._known) == 1 or len({job.queue for job in jobs}) == 1:
            return sorted(jobs, key=claim_order)
        weight_of = _no_weight if self._registry is None else self._registry.weight_of
        turns: Counter[str] = Counter()
        keyed = []
        for place, job in enumerate(sorted(jobs, key=claim_order)):
            served = self._served.get(job.queue, 0)
            keyed.append((-weight_of(job.queue), turns[job.queue], served, place, job))
            turns[job.queue] += 1
        return [job for *_, job in sorted(keyed, key=itemgetter(0, 1, 2, 3))]

    def see(self, lanes: Iterable[Lane], now: float) -> None:
        """Jobs were seen in *lanes*."""
        for lane in lanes:
            known = self._known.get(lane)
            if known is None:
                self._known[lane] = _Known(self._start, now)
            else:
                known.seen_at = now

    def forget_old(self, now: float) -> None:
        """Lanes in which nothing was seen for long are found again when something comes."""
        self._known = {
            lane: known for lane, known in self._known.items() if now - known.seen_at < FORGET_AFTER
        }
        queues = {lane.queue for lane in self._known}
        self._served = {queue: at for queue, at in self._served.items() if queue in queues}

    def of(self, pool: Pool) -> list[Lane]:
        """The lanes jobs for *pool* may come from."""
        return [lane for lane in self._known if pool.serves(lane.queue) and lane.queue not in self.paused]

    def requests(self, rooms: Mapping[Pool, int], kinds: frozenset[str]) -> list[LaneRequest]:
        """What a claim asks for, when each pool has so much room."""
        requests = []
        for number, (pool, room) in enumerate(rooms.items()):
            lanes = [lane for lane in self.of(pool) if lane.kind in kinds]
            alone = len(lanes) == 1
            weight_of = self._registry.weight_of if self._registry and pool.by_weight else _no_weight
            requests += [
                LaneRequest(
                    lane,
                    number,
                    self.limits.room(lane.queue, room),
                    alone,
                    self._known[lane].mark,
                    pool.urgency.last,
                    weight_of(lane.queue),
                    self._served.get(lane.queue, 0),
                )
                for lane in lanes
            ]
        return requests

    def advance(self, jobs: Iterable[ClaimedJob], now: float) -> None:
        """These were claimed, in order."""
        last = {(job.queue, job.kind): job for job in jobs}  # in order, so the last of each lane remains
        self._claims += 1
        for (queue, kind), job in last.items():
            self._served[queue] = self._claims
            known = self._known.get(Lane(queue, kind))
            if known is not None:
                known.mark = max(known.mark, Mark(job.priority, job.scheduled_at, job.id))
                known.seen_at = now

    def forget_marks_of(self, lanes: Iterable[Lane]) -> None:
        """Claim from the start of *lanes* again."""
        for lane in lanes:
            if (known := self._known.get(lane)) is not None:
                known.mark = self._start

    def forget_marks(self) -> bool:
        """Claim from the start again; False when nothing was marked."""
        marked = False
        for known in self._known.values():
            marked = marked or known.mark is not self._start
            known.mark = self._start
        return marked


def _narrowness(pool: Pool) -> Any:
    """A job goes where the fewest others could."""
    return pool.urgency.last, EVERY_QUEUE in pool.queues, len(pool.queues)


def _no_weight(queue: str) -> int:  # noqa: ARG001
    return 0
