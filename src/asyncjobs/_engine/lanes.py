"""What the claimer remembers of the lanes it claims from: which there are, and how far it has claimed each.

The mark keeps a claim from stepping over the dead entries of jobs long finished, which somebody's long transaction keeps
in the index (6 times the rate under such a transaction). A job may come to lie behind the mark: committed late, retried,
of a more urgent priority. So marks are forgotten often, and before anybody believes a lane is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from asyncjobs._engine.slots import Pool
from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._store.claims import FROM_THE_START, LaneRequest, Mark

FORGET_AFTER = 60.0  #: seconds without a job


@attrs.define
class _Known:
    mark: Mark
    seen_at: float


class Lanes:
    """The lanes this runner may claim from."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools
        self._known: dict[Lane, _Known] = {}
        self.paused: frozenset[str] = frozenset()

    def pool_of(self, queue: str) -> Pool | None:
        """The pool in which jobs of *queue* run here."""
        return next((pool for pool in self._pools if pool.serves(queue)), None)

    def see(self, lanes: Iterable[Lane], now: float) -> None:
        """Jobs were seen in *lanes*."""
        for lane in lanes:
            known = self._known.get(lane)
            if known is None:
                self._known[lane] = _Known(FROM_THE_START, now)
            else:
                known.seen_at = now

    def forget_old(self, now: float) -> None:
        """Lanes in which nothing was seen for long are found again when something comes."""
        self._known = {
            lane: known for lane, known in self._known.items() if now - known.seen_at < FORGET_AFTER
        }

    def of(self, pool: Pool) -> list[Lane]:
        """The lanes jobs for *pool* may come from."""
        return [lane for lane in self._known if pool.serves(lane.queue) and lane.queue not in self.paused]

    def requests(self, rooms: Mapping[Pool, int], kinds: frozenset[str]) -> list[LaneRequest]:
        """What a claim asks for, when each pool has so much room."""
        requests = []
        for number, (pool, room) in enumerate(rooms.items()):
            lanes = [lane for lane in self.of(pool) if lane.kind in kinds]
            alone = len(lanes) == 1
            requests += [LaneRequest(lane, number, room, alone, self._known[lane].mark) for lane in lanes]
        return requests

    def advance(self, jobs: Iterable[ClaimedJob], now: float) -> None:
        """These were claimed, in order."""
        last = {(job.queue, job.kind): job for job in jobs}  # in order, so the last of each lane remains
        for (queue, kind), job in last.items():
            known = self._known.get(Lane(queue, kind))
            if known is not None:
                known.mark = max(known.mark, Mark(job.priority, job.scheduled_at, job.id))
                known.seen_at = now

    def forget_marks(self) -> bool:
        """Claim from the start again; False when nothing was marked."""
        marked = False
        for known in self._known.values():
            marked = marked or known.mark is not FROM_THE_START
            known.mark = FROM_THE_START
        return marked
