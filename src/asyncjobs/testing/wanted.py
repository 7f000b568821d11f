"""What a test looks for among the jobs, and in what a job differs from it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Any

import attrs
import orjson

from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import Definition
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._define.faithful import shorten
from asyncjobs._define.keys import ARGUMENTS
from asyncjobs._define.later import Later
from asyncjobs._define.service import Service
from asyncjobs._model.durations import moment, seconds
from asyncjobs._model.job import Job
from asyncjobs._model.options import check_words
from asyncjobs._model.states import FINAL, JobState
from asyncjobs.errors import InvalidOption

LIVE = tuple(state for state in JobState if state not in FINAL)

WORDS = frozenset({"args", "queue", "priority", "delay", "at", "within", "tags", "meta", "states"})


@attrs.frozen
class Wanted:
    """A job as a test describes it; what is None may be anything."""

    what: str | None = None  #: for messages
    kinds: frozenset[str] | None = None
    ending: str | None = None  #: of its kind, or its name for people
    method: str | None = None
    args: Any = None
    also_args: Any = None  #: of the object or the call that was given
    queue: str | None = None
    priority: int | None = None
    delay: float | None = None
    at: datetime | None = None
    within: float = 1.0
    tags: Sequence[str] = ()
    meta: Any = None
    states: Sequence[JobState] = LIVE

    def differences(self, job: Job) -> list[str]:
        """In what *job* is not as wanted; nothing: it is."""
        return [*self._identity(job), *self._rest(job)]

    def is_of_kind(self, job: Job) -> bool:
        """Whether *job* is at least of the kind and method wanted."""
        return not any(self._identity(job))

    def _identity(self, job: Job) -> Iterator[str]:
        if (
            (self.kinds is not None and registry.todays_name(job.kind) not in self.kinds)
            or (self.ending is not None and not _ends(job, self.ending))
            or (self.method is not None and job.method != self.method)
        ):
            yield f"it is {job.name}"

    def _rest(self, job: Job) -> Iterator[str]:
        inputs = inputs_of(job)
        for wanted in (self.also_args, self.args):
            if wanted is not None:
                yield from differences(wanted, inputs, "args")
        if self.queue is not None and job.queue != self.queue:
            yield f"queue is {job.queue!r}, not {self.queue!r}"
        if self.priority is not None and job.priority != self.priority:
            yield f"priority is {job.priority}, not {self.priority}"
        if self.delay is not None:
            waits = (job.scheduled_at - job.created_at).total_seconds()
            if abs(waits - self.delay) > self.within:
                yield f"delay is {timedelta(seconds=round(waits, 3))}, not {timedelta(seconds=self.delay)}"
        if self.at is not None and abs((job.scheduled_at - self.at).total_seconds()) > self.within:
            yield f"scheduled_at is {job.scheduled_at.isoformat()}, not {self.at.isoformat()}"
        missing = [tag for tag in self.tags if tag not in job.tags]
        if missing:
            yield f"tags are {list(job.tags)}, without {', '.join(map(repr, missing))}"
        if self.meta is not None:
            yield from differences(self.meta, job.meta or {}, "meta")
        if job.state not in self.states:
            yield f"it is {job.state}, not {' or '.join(self.states)}"

    def __str__(self) -> str:
        said = []
        if self.also_args:
            said.append(f"args={self.also_args!r}")
        for name in ("args", "queue", "priority", "at", "meta"):
            value = getattr(self, name)
            if value is not None:
                said.append(f"{name}={value!r}")
        if self.delay is not None:
            said.append(f"delay={timedelta(seconds=self.delay)}")
        if self.tags:
            said.append(f"tags={list(self.tags)}")
        if tuple(self.states) != LIVE:
            said.append(f"states={[state.value for state in self.states]}")
        return "  ".join([self.what or "a job", ", ".join(said)]).strip()


def wanted(what: Any, given: Mapping[str, Any], where: str) -> Wanted:
    """What the caller of *where* looks for. Raises InvalidOption."""
    check_words(given, WORDS, where)
    fields = {name: value for name, value in given.items() if value is not None}
    if "delay" in fields:
        fields["delay"] = seconds(fields["delay"], "delay")
    if "at" in fields:
        fields["at"] = moment(fields["at"], "at")
    if "within" in fields:
        fields["within"] = seconds(fields["within"], "within")
    for name in ("tags", "states"):
        if isinstance(fields.get(name), str):
            raise InvalidOption(f"{name}={fields[name]!r} is one word; write {name}=[{fields[name]!r}]")
    if "states" in fields:
        fields["states"] = tuple(map(JobState, fields["states"]))
    return attrs.evolve(_named(what), **fields)


def _named(what: Any) -> Wanted:
    """A job class, an object, a method of either, a function, a prepared call, or the name of any."""
    if what is None:
        return Wanted()
    if isinstance(what, str):
        return Wanted(what, ending=what)
    if isinstance(what, Prepared):
        args = orjson.loads(what.encode(Codec()))
        return Wanted(what.what, frozenset({what.kind}), method=what.method, also_args=_flat(args))
    if isinstance(what, type) and issubclass(what, Later):
        return Wanted(what.__qualname__, frozenset({_service(what).kind}))
    if isinstance(what, Later):
        return _of_object(what)
    owner = getattr(what, "__self__", None)
    if isinstance(owner, Later):
        return attrs.evolve(_of_object(owner), what=_name_of(what), method=what.__name__)
    if isinstance(what, Definition) and not what.is_method:
        return Wanted(what.name, frozenset({what.kind}))
    function = what.function if isinstance(what, Definition) else what
    kinds = frozenset(_classes_with(function)) if inspect.isfunction(function) else frozenset()
    if not kinds:
        raise InvalidOption(
            f"{shorten(what)} is no job; pass a job class, an object of one, a method of either, a `@job` function, a prepared "
            "call, or the name of a kind"
        )
    return Wanted(function.__qualname__, kinds, method=function.__name__)


def _of_object(instance: Later) -> Wanted:
    service = _service(type(instance))
    args = Codec().encode(service._inputs_of(instance), service._signature.types, what=service.home)
    return Wanted(type(instance).__qualname__, frozenset({service.kind}), also_args=orjson.loads(args))


def _service(cls: type) -> Service:
    service: Service = cls.__asyncjobs_service__  # type: ignore[attr-defined]
    return service


def _name_of(method: Any) -> str:
    return f"{type(method.__self__).__qualname__}.{method.__name__}"


def _classes_with(function: Any) -> Iterator[str]:
    for definition in registry.definitions():
        cls = getattr(definition, "cls", None)
        found = inspect.getattr_static(cls, function.__name__, None) if cls is not None else None
        if found is function or (isinstance(found, Definition) and found.function is function):
            yield definition.kind


def _ends(job: Job, ending: str) -> bool:
    return any(name == ending or name.endswith((f":{ending}", f".{ending}")) for name in (job.kind, job.name))


def inputs_of(job: Job) -> dict[str, Any]:
    """The inputs of *job*, those of its object and those of its method together."""
    return _flat(job.args)


def _flat(args: Any) -> dict[str, Any]:
    if not isinstance(args, dict):
        return {}
    nested = args.get(ARGUMENTS)
    own = {name: value for name, value in args.items() if name != ARGUMENTS}
    return {**own, **nested} if isinstance(nested, dict) else own


# Subsets.


def differences(expected: Any, actual: Any, path: str) -> Iterator[str]:
    """Where *actual*, of JSON, is not at least what is *expected*: of a mapping the keys named, of anything else all of it.

    A function is asked; other values are written as inputs are, and compared.
    """
    if _is_asked(expected):
        if not expected(actual):
            yield f"{path} is {shorten(actual)}, which {_name(expected)} does not accept"
    elif isinstance(expected, Mapping):
        if not isinstance(actual, Mapping):
            yield f"{path} is {shorten(actual)}, not {shorten(dict(expected))}"
            return
        for key, value in expected.items():
            written = key if isinstance(key, str) else str(key)
            if written in actual:
                yield from differences(value, actual[written], f"{path}.{written}")
            else:
                yield f"{path} has no {written!r}"
    elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes | bytearray):
        if not isinstance(actual, list) or len(actual) != len(expected):
            yield f"{path} is {shorten(actual)}, not {shorten(list(expected))}"
            return
        for nth, (value, each) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(value, each, f"{path}[{nth}]")
    elif not _is_equal(expected, actual):
        yield from _differs_written(expected, actual, path)


def _is_asked(expected: Any) -> bool:
    return inspect.isroutine(expected) or isinstance(expected, functools.partial)


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)


def _is_equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) != isinstance(actual, bool) and isinstance(expected, bool | int | float):
        return False
    if isinstance(expected, datetime) and isinstance(actual, str):
        try:
            return datetime.fromisoformat(actual) == expected
        except (ValueError, TypeError):
            return False
    return bool(expected == actual)


def _differs_written(expected: Any, actual: Any, path: str) -> Iterator[str]:
    """*expected* as an input would be stored: an object of a class by its fields, an enum by its value."""
    if expected is None or isinstance(expected, str | bool | int | float):
        # An enum's member may be a str, too, and equals what is stored.
        yield f"{path} is {shorten(actual)}, not {expected!r}"
        return
    written = orjson.loads(Codec().encode_value(expected, type(expected), what=f"what is expected of {path}"))
    if isinstance(expected, AbstractSet) and isinstance(actual, list):
        if sorted(map(repr, written)) != sorted(map(repr, actual)):
            yield f"{path} is {shorten(actual)}, not {shorten(written)}"
    elif isinstance(written, dict | list):
        yield from differences(written, actual, path)
    elif written != actual:
        yield f"{path} is {shorten(actual)}, not {shorten(written)}"


def when_of(job: Job) -> str:
    """Where *job* stands, for people."""
    if job.state in (JobState.SCHEDULED, JobState.RETRYABLE):
        return f"{job.state} for {job.scheduled_at.isoformat(timespec='seconds')}"
    return job.state.value
