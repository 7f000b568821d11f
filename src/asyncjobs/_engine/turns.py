"""What a claimer knows of lines, and when it deals turns.

Jobs with a fair key wait in line, where no claim looks (0007_turns.sql). As many as this runner has room for lie ready: they are
dealt whenever it looks around, and again when it has claimed some of them. Where nothing is in line nothing is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from asyncjobs._engine.slots import Pool
from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._model.urgency import Urgency
from asyncjobs._store.session import Session
from asyncjobs._store.turns import deal_turns


class Turns:
    """Of one connection."""

    def __init__(self, pools: Sequence[Pool], urgency: Urgency) -> None:
        self._urgency = urgency
        self._queues = sorted({queue for pool in pools for queue in pool.queues})
        self._slots = self._wanted = sum(pool.size for pool in pools)
        self.lines: frozenset[Lane] = frozenset()  #: where jobs waited in line when we looked last

    def concern(self, jobs: Iterable[ClaimedJob], room: int) -> bool:
        """Whether some of *jobs*, claimed where there was *room* for so many, leave room for others that wait in line."""
        if not self.lines:
            return False
        self._wanted = max(self._slots, room)
        return any((job.queue, job.kind) in self.lines for job in jobs)

    async def deal(self, session: Session, kinds: Collection[str]) -> list[Lane]:
        """Let jobs of *kinds* have their turns: the lanes in which more of them lie ready now."""
        dealt = await deal_turns(session, self._queues, sorted(kinds), self._urgency, self._wanted)
        self.lines = frozenset(dealt)
        return [lane for lane, jobs in dealt.items() if jobs]

    def none(self) -> list[Lane]:
        """Nothing waits in line."""
        self.lines = frozenset()
        return []
