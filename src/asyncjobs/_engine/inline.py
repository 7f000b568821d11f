"""A job that runs at once, in its caller: `run="now"`. Its inputs are written and read back as ever; what raises, raises there.

What it came to is stored as any finished job, in the caller's transaction, under an id nobody ever claimed. There is one
attempt, no lock and no timer but its timeout; a job that snoozes itself is stored to run later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import orjson

from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._engine.around import Around
from asyncjobs._engine.attempt import Attempt
from asyncjobs._engine.context import NoJob, entered
from asyncjobs._engine.supply import Provide
from asyncjobs._enqueue.ambient import bound
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.job import ClaimedJob, NewJob
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.states import FinalState
from asyncjobs._model.verbs import Finish, Verb, as_said
from asyncjobs._store.connection import Connection
from asyncjobs._store.foreign import explained, join
from asyncjobs._store.intake import insert_finished
from asyncjobs._store.rows import from_json
from asyncjobs._store.session import Session
from asyncjobs.errors import MisusedJobs


class NowJob(NoJob):
    """The job that runs at once, as it sees itself: without an id, in nobody's slot."""

    completed = handed_over = awaits_commit = is_asked = False
    cut_off = todays_args = None
    result_type: Any = Any

    def __init__(self, job: ClaimedJob) -> None:
        super().__init__()
        self.kind, self.queue, self.scheduled_at = registry.todays_name(job.kind), job.queue, job.scheduled_at
        self.tags = job.tags or ()
        self.args, self.meta = from_json(job.args), from_json(job.meta) or {}
        self.said: list[Any] = []  #: what it completed itself with

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with super().transaction() as connection:
            yield connection
        if not self.is_asked:
            self.said.append(as_said(self.result))

    async def complete(self, *, on: Any, result: Any = None) -> None:  # noqa: ARG002
        self.said.append(as_said(result))

    async def settle(self, verb: Verb | type[Verb], *, on: Any) -> None:  # noqa: ARG002
        self.said.append(as_said(verb))


async def run_now(
    jobs: Enqueuer, new: NewJob, on: Any, *, codec: Codec, provide: Provide, around: Around
) -> int:
    """Run *new* here, and store what it came to on *on*: its id. Raises what it raises, and then nothing is stored."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        raise MisusedJobs(
            "a job that runs at once needs an event loop; enqueue it with `await ….later(…)`"
        ) from None
    jobs.check_open()
    options = None if new.options is None else orjson.dumps(new.options).decode()
    job = ClaimedJob(
        id=0, token=0, attempt=1, max_attempts=1, priority=new.priority, queue=new.queue, kind=new.stored_kind, method=new.method,
        args=new.args, meta=new.meta, tags=new.tags, options=options, scheduled_at=datetime.now(UTC),
    )  # fmt: skip
    running: Any = NowJob(job)
    attempt = Attempt(
        job,
        running,
        codec,
        provide,
        task,
        started=time.perf_counter(),
        around=around,
        is_awake=True,
        is_quiet=True,
    )
    with bound(jobs, on), entered(running):
        outcome = await _outcome(attempt, running)
    if isinstance(outcome, Returned):
        again = attrs.evolve(new, delay=outcome.delay, scheduled_at=None)
        if again.unique_key is not None:
            (stored,) = await jobs.store_unique([again], on)
            return stored.id
        (job_id,) = await jobs.store([again], on)
        return job_id
    assert outcome is not None
    if outcome.state is FinalState.FAILED and attempt.error is not None:
        raise attempt.error
    if on is None:
        return await jobs.ask(insert_finished, new, outcome)
    joined = await join(on)
    with explained(joined, "the job was stored"):
        return await insert_finished(Session(joined.connection, jobs.schema), new, outcome)


async def _outcome(attempt: Attempt, running: NowJob) -> Outcome | None:
    try:
        outcome = await attempt.run()
        if running.said:
            said = running.said[-1]
            outcome = attempt.came_to(said if isinstance(said, Verb) else Finish(said))
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and not attempt.interrupted:
            raise
        outcome = attempt.came_to(error)
    finally:
        if attempt.interrupted and attempt.task is not None:
            attempt.task.uncancel()
    if isinstance(outcome, Finished) and outcome.state is FinalState.FAILED and attempt.error is None:
        raise AssertionError("a job failed without an error")
    return outcome
