"""After an outage: say of many jobs at once what should become of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import attrs

from asyncjobs._model.states import JobState
from asyncjobs._store.faults import is_taken
from asyncjobs._store.session import Session

CHUNK = 1000  #: jobs one statement changes


@attrs.frozen
class Choice:
    """Which jobs; what is None may be anything."""

    states: Sequence[JobState]
    queues: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    tags: Sequence[str] | None = None

    def after(self, highest: int, limit: int) -> tuple[object, ...]:
        """As statements take it: of the ids above *highest*, so many."""
        states = [state.value for state in self.states]
        return states, self.queues, self.kinds, self.tags, highest, limit


class Retried(NamedTuple):
    """What became of a chunk."""

    seen: int
    highest: int | None  #: the highest id seen
    again: int  #: so many run again


class Cancelled(NamedTuple):
    """What became of a chunk."""

    seen: int
    highest: int | None  #: the highest id seen
    cancelled: int
    requested: int  #: runners of so many were asked to stop them


async def retry_jobs(session: Session, choice: Choice, after: int, limit: int | None = None) -> Retried:
    """Let the next of the jobs chosen run now."""
    while True:
        try:
            row = await session.fetchrow("retry_jobs", *choice.after(after, limit or CHUNK))
        except Exception as error:  # somebody else took a unique key in this moment
            if not is_taken(error):
                raise
        else:
            return Retried(*list(row)[:3])


async def cancel_jobs(session: Session, choice: Choice, after: int, limit: int | None = None) -> Cancelled:
    """Cancel the next of the jobs chosen."""
    row = await session.fetchrow("cancel_jobs", *choice.after(after, limit or CHUNK))
    return Cancelled(*list(row)[:4])
