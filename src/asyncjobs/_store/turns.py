"""For the engine: deal turns to jobs that wait in line because others of their queue are to have turns, too (0007_turns.sql)."""

from __future__ import annotations

from collections.abc import Sequence

from asyncjobs._model.job import Lane
from asyncjobs._model.urgency import Urgency
from asyncjobs._store.session import Session


async def deal_turns(
    session: Session, queues: Sequence[str], kinds: Sequence[str], urgency: Urgency, wanted: int
) -> dict[Lane, int]:
    """See to it that *wanted* jobs of each queue lie ready: the lanes that had lines, and how many of each were dealt."""
    rows = await session.fetch("deal_turns", queues, kinds, urgency.first, urgency.last, wanted)
    return {Lane(queue, kind): dealt for queue, kind, dealt in rows}
