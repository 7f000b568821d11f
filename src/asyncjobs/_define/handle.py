"""What `later` returns: the job, from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import attrs
import orjson

from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.durations import Duration, seconds
from asyncjobs._model.elsewhere import OF_A_HANDLE, SaysOurs
from asyncjobs._model.job import Job
from asyncjobs._model.states import JobState
from asyncjobs.errors import (
    InvalidDefinition,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobSkipped,
    RemoteTraceback,
    ResultNotStored,
    UnknownKind,
)

R_co = TypeVar("R_co", covariant=True)


@attrs.frozen(eq=False, repr=False)
class Handle(SaysOurs, Generic[R_co]):
    """A job that was enqueued. Cheap: ask for what you need, or keep `id` and make one again with `jobs.handle(id)`."""

    _elsewhere = OF_A_HANDLE

    id: int
    created: bool  #: False: a duplicate of a job that waits already, and this is that one's handle
    _jobs: Enqueuer
    _read: Callable[[Job], R_co]

    def __repr__(self) -> str:
        return f"<Handle of job {self.id}>"

    async def job(self) -> Job:
        """The job with all that is known of it. Raises JobNotFound."""
        job = await self._jobs.find_job(self.id)
        if job is None:
            raise JobNotFound(self.id)
        return job

    async def status(self) -> JobState:
        """Where the job stands. Raises JobNotFound, in an open transaction for everybody but it."""
        return (await self.job()).state

    async def result(self, timeout: Duration | None = None) -> R_co:
        """What the job returned, once it has; woken by the database.

        *timeout* is a timedelta or seconds. Raises JobFailed (the remote traceback is its cause), JobCancelled,
        JobSkipped, ResultNotStored, TimeoutError, and JobNotFound at once where the job cannot be seen: inside the
        still open transaction that enqueued it, it would wait for itself.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        try:
            async with asyncio.timeout(limit) as patience:
                job = await self._jobs.wait_for_job(self.id)
        except TimeoutError:
            if patience.expired():
                raise TimeoutError(f"job {self.id} has no result after {limit:g} s, and goes on") from None
            raise
        if job.state is JobState.COMPLETED:
            if job.result_error is not None:
                raise ResultNotStored(
                    f"job {self.id} completed, but its result could not be stored: {job.result_error}"
                )
            return self._read(job)
        raise _unsuccessful(job)

    async def cancel(self) -> Literal["cancelled", "requested"] | None:
        """Stop the job: 'cancelled' when it had not begun, 'requested' when its runner was asked to stop it.

        None when it is final already.
        """
        answer = await self._jobs.cancel_job(self.id)
        if answer is None and await self._jobs.find_job(self.id) is None:
            raise JobNotFound(self.id)
        return answer


NOTHING_TO_DO = "there was nothing left to do"


def typed_reader(result_type: Any, codec: Codec, what: str) -> Callable[[Job], Any]:
    """Reads a result as the definition declares it."""
    return lambda job: codec.decode_value(orjson.dumps(job.result).decode(), result_type, what=what)


def reader_by_kind(codec: Codec) -> Callable[[Job], Any]:
    """Reads a result as the definition of the job's kind declares it; plain JSON where this process has none."""

    def read(job: Job) -> Any:
        try:
            result_type = registry.find(job.kind).result_type(job.method)
        except (UnknownKind, InvalidDefinition):  # neither the kind nor the method need be known here
            return job.result
        return typed_reader(result_type, codec, job.kind)(job)

    return read


def _unsuccessful(job: Job) -> Exception:
    what = f"job {job.id} ({job.kind})"
    last = job.errors[-1] if job.errors else None
    if job.state is JobState.CANCELLED:
        return JobCancelled(f"{what} was cancelled", job.id)
    if job.state is JobState.SKIPPED:
        is_why = last is not None and last.attempt == job.attempt
        return JobSkipped(f"{what} was skipped: {last.error if last and is_why else NOTHING_TO_DO}", job.id)
    failed = JobFailed(f"{what} failed{f' at attempt {last.attempt}: {last.error}' if last else ''}", job.id)
    if last is not None:
        failed.__cause__ = RemoteTraceback(last.traceback or last.error)
    return failed
