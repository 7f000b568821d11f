"""Context travels with a job: what is current where it is enqueued is current again where it runs.

It is stored in the job's meta, below CARRIED, by name: as said in the call or the class (`context=`), else as it is current in
the caller. A locale, a time zone and the W3C trace context always travel, if there is one; what else does an application says
with `Jobs(context=[…])`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import attrs
import orjson

from asyncjobs._model.job import NewJob
from asyncjobs._model.options import check_name
from asyncjobs._store.rows import from_json
from asyncjobs.errors import InvalidInput, InvalidOption

T = TypeVar("T")

MOST = 100_000  #: bytes of JSON one thing that travels may be

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # which jsonb cannot hold

CARRIED = "carried"
"""Where in a job's meta it is kept."""

current_locale: ContextVar[str | None] = ContextVar("locale", default=None)
"""The language and country somebody is served in, as in `de_CH`: set it where a request begins, and jobs have it too."""

current_timezone: ContextVar[ZoneInfo | None] = ContextVar("timezone", default=None)
"""The time zone somebody is served in: set it where a request begins, and jobs have it too."""


@attrs.frozen
class Carried:
    """Something that travels. Made by `carry`."""

    name: str
    read: Callable[[], Any]  #: what is current; None: nothing travels
    enter: Callable[[Any], AbstractContextManager[Any] | None]  #: makes it current, until left
    encode: Callable[[Any], Any] | None = None  #: makes plain JSON data of it
    decode: Callable[[Any], Any] | None = None  #: the inverse

    def written(self, value: Any) -> Any:
        """*value* as it is stored. Raises InvalidInput."""
        try:
            encoded = value if self.encode is None else self.encode(value)
            text = _faithful(encoded)
        except Exception as error:
            raise InvalidInput(
                f"{self.name} travels with jobs, and this {type(value).__name__} cannot be written as JSON: "
                f"{type(error).__name__}: {error!s:.200}; give it carry(…, encode=…, decode=…)"
            ) from error
        if len(text) > MOST:
            raise InvalidInput(
                f"{self.name} travels with every job, and is {len(text):,} bytes of JSON, more than {MOST:,}; carry an id instead"
            )
        return encoded

    def read_back(self, stored: Any) -> Any:
        """The value that was *stored*."""
        return stored if self.decode is None else self.decode(stored)


def _faithful(value: Any) -> bytes:
    """*value* as JSON from which it comes back as it is. Raises ValueError."""
    text = orjson.dumps(value)
    if _NUL.search(text) or orjson.loads(text) != value:
        raise ValueError("it would not come back as it is")
    return text


def carry(
    var: ContextVar[T] | None = None,
    /,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
    read: Callable[[], Any] | None = None,
    enter: Callable[[Any], AbstractContextManager[Any] | None] | None = None,
) -> Carried:
    """Let a context variable travel with jobs, for `Jobs(context=[…])`: `carry(tenant, encode=str, decode=UUID)`.

    *encode* makes plain JSON data of its value, *decode* the value of that. What is no context variable has *read* and *enter*
    instead: `carry(name="locale", read=get_language, enter=override)`, where *enter* makes it current, at best as a context
    manager. It is known by its *name*, the variable's unless said. Raises InvalidOption.
    """
    if var is not None:
        if read is not None or enter is not None:
            raise InvalidOption(
                f"carry({var.name!r}) reads and sets the variable itself; leave out read= and enter="
            )
        read, enter = _reader(var), _setter(var)
        name = name or var.name
    if read is None or enter is None or name is None:
        raise InvalidOption("carry() takes a ContextVar, or name=, read= and enter=")
    return Carried(check_name(name, "name"), read, enter, encode, decode)


def _reader(var: ContextVar[Any]) -> Callable[[], Any]:
    return lambda: var.get(None)


def _setter(var: ContextVar[Any]) -> Callable[[Any], AbstractContextManager[None]]:
    @contextmanager
    def enter(value: Any) -> Iterator[None]:
        token = var.set(value)
        try:
            yield
        finally:
            with suppress(ValueError):  # the job was closed, from another context; its own is gone
                var.reset(token)

    return enter


def _trace() -> dict[str, str] | None:
    """The W3C trace context of OpenTelemetry's current span, where somebody uses that."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 -- whoever has spans has it
        TraceContextTextMapPropagator,
    )

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers or None


@contextmanager
def _traced(headers: Mapping[str, str]) -> Iterator[None]:
    if "opentelemetry.trace" not in sys.modules or not isinstance(headers, Mapping):
        yield  # a trace that cannot be read is no reason not to run
        return
    from opentelemetry import context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    token = context.attach(TraceContextTextMapPropagator().extract(headers))
    try:
        yield
    finally:
        context.detach(token)


def _zone_name(zone: Any) -> str:
    """What finds it again where the job runs: an offset alone is no zone."""
    return ZoneInfo(str(zone)).key


ALWAYS = (
    carry(current_locale, name="locale"),
    carry(current_timezone, name="timezone", encode=_zone_name, decode=ZoneInfo),
    Carried("trace", _trace, _traced),
)


def carried_by_name(given: Iterable[ContextVar[Any] | Carried]) -> dict[str, Carried]:
    """What `Jobs(context=…)` lets travel, and what always does."""
    found = {each.name: each for each in ALWAYS}
    own: set[str] = set()
    for each in given:
        one = carry(each) if isinstance(each, ContextVar) else each
        if not isinstance(one, Carried):
            raise InvalidOption(f"context={one!r:.160} does not travel; pass a ContextVar, or carry(…)")
        if one.name in own:
            raise InvalidOption(f"context= has two of the name {one.name!r}; say carry(…, name=…)")
        own.add(one.name)
        found[one.name] = one
    return found


def stamped(jobs: Sequence[NewJob], carried: Mapping[str, Carried]) -> Sequence[NewJob]:
    """*jobs*, with what is current here. What a job says itself stands. Raises InvalidInput for what cannot be written."""
    current = captured(carried)
    if not current:
        return jobs
    return [attrs.evolve(job, meta=_with(job.meta, current)) for job in jobs]


def captured(carried: Mapping[str, Carried]) -> dict[str, Any]:
    """What is current here, as it is stored."""
    found = {}
    for name, each in carried.items():
        value = each.read()
        if value is not None:
            found[name] = each.written(value)
    return found


def _with(meta: str | None, current: Mapping[str, Any]) -> str:
    stored: dict[str, Any] = {} if meta is None else orjson.loads(meta)
    said = stored.get(CARRIED, {})
    if isinstance(said, dict):  # else somebody uses the name for something else
        stored[CARRIED] = {**current, **said}
    return orjson.dumps(stored).decode()


def meta_of(options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The meta that *options* say, with the context they say."""
    meta: Mapping[str, Any] | None = options.get("meta")
    said = options.get("context")
    return meta if said is None else {**(meta or {}), CARRIED: dict(said)}


def carried_in(meta: str, carried: Mapping[str, Carried]) -> dict[str, Any]:
    """What came along in *meta*, and means something here: decoded, by name."""
    if f'"{CARRIED}"' not in meta:
        return {}
    stored = from_json(meta)  # somebody else may have written it
    came = stored.get(CARRIED) if isinstance(stored, dict) else None
    if not isinstance(came, dict):
        return {}
    return {name: carried[name].read_back(value) for name, value in came.items() if name in carried}


@contextmanager
def restored(values: Mapping[str, Any], carried: Mapping[str, Carried]) -> Iterator[None]:
    """Within it, *values* are current. A name that nothing travels by is an error."""
    with ExitStack() as stack:
        for name, value in values.items():
            if name not in carried:
                raise InvalidOption(
                    f"nothing travels by the name {name!r}; there are {', '.join(sorted(carried))}"
                )
            entered = carried[name].enter(value)
            if entered is not None:
                stack.enter_context(entered)
        yield
