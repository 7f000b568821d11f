"""Jobs and queues from outside: many enqueued, looked at, counted, and steered."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from asyncjobs._app import steering
from asyncjobs._bus.publisher import Publisher
from asyncjobs._define.enqueueing import Prepared, codec_of, enqueue_many
from asyncjobs._define.handle import Handle, reader_by_kind
from asyncjobs._define.registry import definitions
from asyncjobs._model.job import Job
from asyncjobs._model.limits import QueueLimit, Rate, checked_limits
from asyncjobs._model.options import check_name, check_words
from asyncjobs._model.queues import place_of
from asyncjobs._model.states import JobState
from asyncjobs._model.stats import HeldJob, JobStats
from asyncjobs._store import limits, stats, views
from asyncjobs._store.steering import Choice
from asyncjobs.errors import InvalidOption

logger = logging.getLogger("asyncjobs")

R = TypeVar("R")


class _Where(TypedDict, total=False):
    """Where many jobs are stored, and who is told."""

    on: Any
    wake: bool


class FromOutside(Publisher):
    """What `Jobs` may be asked, and told, of the jobs of a database, whoever runs them."""

    def handle(self, job_id: int) -> Handle[Any]:
        """The handle of a job whose id was kept."""
        return Handle(int(job_id), True, self, reader_by_kind(codec_of(self)))

    async def enqueue_many(
        self, prepared: Iterable[Prepared[R]], **options: Unpack[_Where]
    ) -> list[Handle[R]]:
        """Enqueue many calls in one statement, all or none: `[send.prepare(1), export.prepare("call"), …]`.

        What is said of one job is said where it is prepared; here, *on* which connection they are stored, and whether to
        *wake* idle runners: with wake=False they are found when a runner looks by itself, within seconds.
        """
        check_words(options, frozenset(_Where.__annotations__), "enqueue_many")
        return await enqueue_many(prepared, self, options.get("on"), wake=options.get("wake", True))

    async def get_job(self, job_id: int) -> Job | None:
        """One job with all that is known of it, or None."""
        return await self.find_job(job_id)

    async def list_jobs(
        self,
        *,
        states: Sequence[JobState | str] | None = None,
        queues: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """Jobs, newest first; a kind by any ending of its name, with all of *tags*; page on with *before* the last id seen."""
        words = None if states is None else [_state(state) for state in _several(states, "states") or ()]
        queues, kinds, tags = _several(queues, "queues"), _several(kinds, "kinds"), _several(tags, "tags")
        return await self.ask(
            views.list_jobs, states=words, queues=queues, kinds=kinds, tags=tags, before=before, limit=limit
        )

    async def count_jobs(self) -> dict[str, dict[JobState, int]]:
        """How many jobs stand where: by queue, by state."""
        return await self.ask(views.count_jobs)

    async def stats(self) -> list[JobStats]:
        """How the jobs of each kind in each queue stand that are not final, the most numerous first."""
        return await self.ask(stats.list_stats)

    async def states(self) -> list[HeldJob]:
        """The jobs that runners hold, and who holds each."""
        return await self.ask(stats.list_held)

    async def retry(self, job_id: int) -> bool:
        """Let a finished job run again, with all its attempts, or a waiting one before its time.

        False when there is nothing to hurry: it runs, is available, or blocked (a lock is handed over, in order); when its inputs
        were not kept (`keep=`); and when there is no such job. `get_job` says which.
        """
        queue = await self.ask(views.retry_job, job_id)
        if queue is not None and self.runner is not None:
            self.runner.wake(())
        return queue is not None

    async def cancel(self, job_id: int) -> Literal["cancelled", "requested"] | None:
        """Stop a job; see `Handle.cancel`."""
        return await self.handle(job_id).cancel()

    async def retry_many(
        self,
        *,
        states: Sequence[JobState | str] = (JobState.FAILED,),
        queues: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
    ) -> int:
        """`retry` every job of these *states*, *queues* and *kinds*, with all of *tags*: how many run now.

        A thousand in a transaction. States may be failed, cancelled, skipped, retryable and scheduled. One that took runners down is
        left as it is: retry that alone. What fails once more is not retried a second time.
        """
        again = await steering.retry_many(self, _choice(states, queues, kinds, tags))
        if again and self.runner is not None:
            self.runner.wake(())
        return again

    async def cancel_many(
        self,
        *,
        states: Sequence[JobState | str] = steering.CANCELLED,
        queues: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
    ) -> dict[str, int]:
        """Cancel every job of these *states*, *queues* and *kinds*, with all of *tags*: how many are `cancelled`, and how many run, whose
        runners are asked to stop them (`requested`).

        A thousand in a transaction. At least one of *queues*, *kinds* and *tags* has to be said. Without *states* it is all that
        is not final.
        """
        return await steering.cancel_many(self, _choice(states, queues, kinds, tags))

    async def paused_queues(self) -> set[str]:
        """The queues nobody claims from, until `resume`."""
        return await self.ask(views.paused_queues)

    async def pause(self, queue: str) -> None:
        """Claim no more jobs of *queue*, in any process, until `resume`; what runs may finish."""
        await self._doubt(queue)
        for name in self.registry.names_of(check_name(queue, "queue")):
            await self.ask(views.pause_queue, name)

    async def resume(self, queue: str) -> bool:
        """Claim jobs of *queue* again. False when it was not paused."""
        names = self.registry.names_of(check_name(queue, "queue"))
        if any([await self.ask(views.resume_queue, name) for name in names]):
            return True
        await self._doubt(queue)
        return False

    async def limit(self, queue: str, *, concurrency: int | None = None, rate: Rate | None = None) -> None:
        """Limit *queue* over all processes: so many of its jobs run at a time, so many begin in a time. With neither, no longer.

        It is stored, and holds within a second everywhere; what runs already may finish.
        """
        await self._doubt(queue)
        await self.ask(limits.limit_queue, check_name(queue, "queue"), *checked_limits(concurrency, rate))

    async def _doubt(self, queue: str) -> None:
        """Warn where *queue* is perhaps another one, mistyped: nobody registered it, no kind goes to it, and no job is in it."""
        doubt = self.doubt_queue(check_name(queue, "queue"))
        if doubt and not await self.ask(views.list_jobs, queues=[queue], limit=1):
            logger.warning("%s", doubt)

    def doubt_queue(self, queue: str) -> str | None:
        """Why *queue* is perhaps another one, mistyped: nobody registered it, and no kind here goes to it."""
        if not self.registry or self._undeclared.is_known(queue, self.registry):
            return None
        options = [definition.options_of(None) for definition in definitions()]
        if any(place_of(each, self.registry)[0] == queue for each in options):
            return None
        return self._undeclared.doubt(queue, self.registry)

    async def limits(self) -> dict[str, QueueLimit]:
        """The queues that are limited, and how."""
        return await self.ask(limits.list_limits)


def _choice(
    states: Sequence[JobState | str],
    queues: Sequence[str] | None,
    kinds: Sequence[str] | None,
    tags: Sequence[str] | None,
) -> Choice:
    words = [_state(state) for state in _several(states, "states") or ()]
    return Choice(words, _several(queues, "queues"), _several(kinds, "kinds"), _several(tags, "tags"))


def _several(values: Sequence[str] | None, name: str) -> Sequence[str] | None:
    if isinstance(values, str):
        raise InvalidOption(f"{name}={values!r} is one word; write {name}=[{values!r}]")
    return values if values is None else list(values)


def _state(word: str) -> JobState:
    try:
        return JobState(word)
    except ValueError:
        raise InvalidOption(f"{word!r} is no state of a job; there are {', '.join(JobState)}") from None
