"""Many jobs at once, by their states, queues, kinds and tags: run again, or cancelled."""

from __future__ import annotations

from collections.abc import Iterable

from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.states import JobState
from asyncjobs._store import steering
from asyncjobs._store.steering import Choice
from asyncjobs.errors import InvalidOption

RETRIED = (
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.SKIPPED,
    JobState.RETRYABLE,
    JobState.SCHEDULED,
)
CANCELLED = (
    JobState.AVAILABLE,
    JobState.SCHEDULED,
    JobState.RETRYABLE,
    JobState.BLOCKED,
    JobState.RUNNING,
)


async def retry_many(jobs: Enqueuer, choice: Choice) -> int:
    """Let all that are chosen run now, chunk by chunk, each a transaction; how many."""
    _check(choice, RETRIED, "retry_many")
    again = highest = 0
    while True:
        chunk = await jobs.ask(steering.retry_jobs, choice, highest)
        again += chunk.again
        if chunk.highest is None or chunk.seen < steering.CHUNK:
            return again
        highest = chunk.highest


async def cancel_many(jobs: Enqueuer, choice: Choice) -> dict[str, int]:
    """Cancel all that are chosen, chunk by chunk, each a transaction; how many are cancelled, and requested."""
    _check(choice, CANCELLED, "cancel_many")
    if not (choice.queues or choice.kinds or choice.tags):
        raise InvalidOption("which jobs shall be cancelled? Say queues=, kinds= or tags=")
    cancelled = requested = highest = 0
    while True:
        chunk = await jobs.ask(steering.cancel_jobs, choice, highest)
        cancelled += chunk.cancelled
        requested += chunk.requested
        if chunk.highest is None or chunk.seen < steering.CHUNK:
            return {"cancelled": cancelled, "requested": requested}
        highest = chunk.highest


def _check(choice: Choice, allowed: Iterable[JobState], where: str) -> None:
    strange = [state.value for state in choice.states if state not in allowed]
    if strange:
        raise InvalidOption(
            f"{where} leaves alone what is {' or '.join(strange)}; it takes {', '.join(state.value for state in allowed)}"
        )
