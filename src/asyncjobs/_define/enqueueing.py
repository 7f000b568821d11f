"""From a call that was meant for later to a stored job and its handle."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import attrs

from asyncjobs._define.codec import Codec
from asyncjobs._define.fairness import fair
from asyncjobs._define.handle import Handle, reader_by_kind, typed_reader
from asyncjobs._define.history import NO_HISTORY, History, check_history
from asyncjobs._define.keys import Chosen
from asyncjobs._define.locking import locked
from asyncjobs._define.rating import rated
from asyncjobs._define.uniqueness import unique
from asyncjobs._enqueue.ambient import which
from asyncjobs._enqueue.carried import meta_of, stamped
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._enqueue.middleware import around_enqueue
from asyncjobs._enqueue.options import check_later_options
from asyncjobs._model.durations import seconds
from asyncjobs._model.job import NewJob
from asyncjobs._model.options import DefinitionOptions, definition_options, runs_now, stored_options
from asyncjobs._model.queues import QueueRegistry, place_of, queues
from asyncjobs.errors import InvalidInput, InvalidOption

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@attrs.define(eq=False)  # made for every job
class Prepared(Generic[R_co]):
    """A call with its inputs, checked, that `later` or `jobs.enqueue_many` stores."""

    kind: str
    method: str | None
    what: str
    encode: Callable[[Codec], str]
    result_type: Any
    defined: Mapping[str, Any]  #: the options of the definition, merged over the defaults
    call: Mapping[str, Any]  #: the options of this call
    chosen: Chosen  #: what its keys are made of
    on_enqueue: Callable[[], Any] | None = None  #: asked before it is stored; may say options
    history: History = NO_HISTORY

    def new_job(self, codec: Codec, registry: QueueRegistry = queues) -> NewJob:
        """The job to store. Raises InvalidInput."""
        job = self._unkeyed_job(codec, registry)
        turns = self.call["fair"] if "fair" in self.call else self.defined.get("fair")
        if turns:
            job = fair(job, turns, self.chosen)
        lock = self.call["lock"] if "lock" in self.call else self.defined.get("lock")
        if lock:
            job = locked(job, lock, self.chosen, self.history)
        rate = self.call["rate"] if "rate" in self.call else self.defined.get("rate")
        if rate:
            job = rated(job, rate, self.chosen, self.history)
        alike = self.call["unique"] if "unique" in self.call else self.defined.get("unique")
        return unique(job, alike, self.chosen, self.history) if alike else job

    def _unkeyed_job(self, codec: Codec, registry: QueueRegistry) -> NewJob:
        call, options = self.call, self.defined
        if not call:
            meta = meta_of(options)
            queue, priority = place_of(options, registry)
            return NewJob(
                kind=self.kind,
                method=self.method,
                args=self.encode(codec),
                queue=queue,
                priority=priority,
                max_attempts=options["max_attempts"],
                tags=options.get("tags"),
                meta=None if meta is None else codec.encode_plain(meta, what=f"meta of {self.what}"),
                version=self.history.version,
            )
        merged = {**options, **call}
        meta = meta_of(merged)
        queue, priority = place_of(merged, registry)
        return NewJob(
            kind=self.kind,
            method=self.method,
            args=self.encode(codec),
            queue=queue,
            priority=priority,
            max_attempts=merged["max_attempts"],
            delay=seconds(call["delay"], "delay") if "delay" in call else None,
            scheduled_at=call.get("at"),
            tags=merged.get("tags"),
            meta=None if meta is None else codec.encode_plain(meta, what=f"meta of {self.what}"),
            options=stored_options(call),
            version=self.history.version,
        )

    def handle(self, job_id: int, jobs: Enqueuer, codec: Codec) -> Handle[R_co]:
        """The handle of the stored job."""
        return Handle(job_id, True, jobs, typed_reader(self.result_type, codec, self.what))


async def enqueue(prepared: Prepared[R]) -> Handle[R]:
    """Store one call."""
    (handle,) = await enqueue_many([prepared], prepared.call.get("jobs"), prepared.call.get("on"))
    return handle


async def enqueue_many(
    prepared: Iterable[Prepared[R]], jobs: Enqueuer | None = None, on: Any = None, *, wake: bool = True
) -> list[Handle[R]]:
    """Store many calls in one statement, all or none; their handles in the order given. Without *wake* nobody is told."""
    calls: Sequence[Prepared[R]] = list(prepared)
    for each in calls:
        if each.call.get("on", on) is not on or each.call.get("jobs", jobs) is not jobs:
            raise InvalidOption(
                f"{each.what} was prepared with an on= or jobs= of its own, and many jobs are stored together; "
                "say it where they are stored"
            )
    jobs, on = which(jobs, on)
    codec = codec_of(jobs)
    if jobs.transactional:
        await jobs.check_transaction(on)
    calls = [call if call.on_enqueue is None else await _asked(call, call.on_enqueue) for call in calls]
    new = stamped([call.new_job(codec, jobs.registry) for call in calls], jobs.carried)
    now = [
        runs_now(call.call.get("run", call.defined.get("run", jobs.run)), job)
        for call, job in zip(calls, new, strict=True)
    ]
    store = partial(_store_or_run, jobs, on, wake, now) if True in now else partial(_store, jobs, on, wake)
    stored = await (around_enqueue(jobs.middleware, store)(new) if jobs.middleware else store(new))
    return [
        call.handle(job_id, jobs, codec) if created else Handle(job_id, False, jobs, reader_by_kind(codec))
        for call, (job_id, created) in zip(calls, stored, strict=True)
    ]


async def _store_or_run(
    jobs: Enqueuer, on: Any, wake: bool, now: Sequence[bool], new: Sequence[NewJob]
) -> Sequence[tuple[int, bool]]:
    """Store the jobs that run later, then run those that run now, in their order."""
    later = [job for job, is_now in zip(new, now, strict=True) if not is_now]
    stored = iter(await _store(jobs, on, wake, later) if later else ())
    return [
        (await jobs.run_now(job, on), True) if is_now else next(stored)
        for job, is_now in zip(new, now, strict=True)
    ]


async def _store(jobs: Enqueuer, on: Any, wake: bool, new: Sequence[NewJob]) -> Sequence[tuple[int, bool]]:
    """The ids of what is stored, and whether each is new."""
    if [job for job in new if job.unique_key is not None]:
        return await jobs.store_unique(new, on, wake=wake)
    return [(job_id, True) for job_id in await jobs.store(new, on, wake=wake)]


async def _asked(call: Prepared[R], on_enqueue: Callable[[], Any]) -> Prepared[R]:
    """*call*, with the options that its object says of itself; those that were said of the call count more."""
    said = on_enqueue()
    if inspect.isawaitable(said):
        said = await said
    if said is None:
        return call
    where = f"what on_enqueue of {call.what} returns"
    if not isinstance(said, Mapping):
        raise InvalidOption(f"{where} is {said!r:.160}; return a dictionary of options, or None")
    if said.keys() & {"on", "jobs"}:
        raise InvalidOption(f"{where} says on= or jobs=, which is the caller's to say")
    call_options(said, where)
    own = {
        word: value
        for word, value in said.items()
        if not (word in ("delay", "at") and {"delay", "at"} & call.call.keys())
    }
    return attrs.evolve(call, call={**own, **call.call})


def call_options(given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The options of one call, checked."""
    if given:
        check_later_options(given, where)
    return given


def defined_options(given: Mapping[str, Any], where: str) -> DefinitionOptions:
    """The options of a class or of `@job`, checked where they are written."""
    options = definition_options(given, where)
    check_history(options, where)
    if "meta" in options:
        try:
            Codec().encode_plain(options["meta"], what=f"meta of {where}")
        except InvalidInput as error:
            raise InvalidOption(str(error)) from error
    return options


_codecs: dict[int, Codec] = {}


def codec_of(jobs: Enqueuer) -> Codec:
    """The codec with the limit of *jobs*."""
    limit = jobs.payload_limit
    if limit not in _codecs:
        _codecs[limit] = Codec(limit=limit)
    return _codecs[limit]
