"""A job that passes an event on to the job it is for, in the application that subscribed.

Only where the publisher cannot store that job itself: its unique key or its lock are computed by the subscriber's code, or a
`transform` makes its inputs. It passes on and completes in one transaction, so there is one job for one event all the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from asyncjobs._bus.events import ATTRIBUTES
from asyncjobs._define.call import Call
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import Definition
from asyncjobs._define.enqueueing import Prepared, enqueue
from asyncjobs._define.service import Service
from asyncjobs._engine.context import current_job
from asyncjobs._model.events import Event
from asyncjobs.errors import InvalidInput

LONGEST_NAME = 120  #: characters of a kind

Transform = Callable[[Event], Any]
"""What a subscriber's job is made from, out of an event: a dictionary of arguments, or the object of a Later class."""


class Relay(Definition[..., Any, int]):
    """The kind of one subscription's passing on."""

    def __init__(
        self,
        target: Definition[..., Any, Any] | Service,
        method: str | None,
        own: Mapping[str, Any],
        transform: Transform | None,
        name: str,
    ) -> None:
        self._target = target
        self._method = method
        self._own = own
        self._transform = transform
        options = {**target.options_of(method), **own}

        async def relay(event: Event) -> int:
            """Passes an event on."""
            raise NotImplementedError

        relay.__module__ = __name__
        relay.__qualname__ = (
            f"relay.<locals>.{name.replace('.', '·')}"  # a dot would make it some class' method
        )
        super().__init__(
            relay,
            {"kind": _kind(target.history.first_name(target.kind), name)}
            | {  # type: ignore[arg-type]
                word: options[word]
                for word in ("queue", "app", "priority", "max_attempts", "backoff")
                if options.get(word) is not None
            },
        )

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:  # noqa: ARG002
        return Call(
            functools.partial(self._pass_on, args, codec, supply), True, int, f"relay to {self._target.kind}"
        )

    def try_out(self, method: str | None, args: str, codec: Codec) -> None:
        """What is stored are an event's attributes, whatever they are."""

    @functools.cached_property
    def _dependencies(self) -> frozenset[Any]:
        wanted = {Event}
        if isinstance(self._target, Service) and self._transform is None:
            wanted |= set(self._target.dependencies(self._method))
        return frozenset(wanted)

    async def _pass_on(self, args: str, codec: Codec, supply: Mapping[Any, Any]) -> int:
        prepared = await self.prepared(supply[Event], args, codec, supply)
        job = current_job()
        async with job.transaction():
            job.result = (await enqueue(prepared)).id
        return int(job.result)

    async def prepared(
        self, event: Event, args: str, codec: Codec, supply: Mapping[Any, Any]
    ) -> Prepared[Any]:
        """The job that *event* is passed on to."""
        made: Any = None
        if self._transform is not None:
            made = self._transform(event)
            if inspect.isawaitable(made):
                made = await made
        known = {**current_job().meta.get("event", {}), ATTRIBUTES: event.attributes}
        options: Any = {**self._own, "meta": {**self._meta(), "event": known}}
        target = self._target
        if isinstance(target, Service):
            made = target.object_of(args, codec, supply) if self._transform is None else made
            if not isinstance(made, target.cls):
                raise InvalidInput(
                    f"transform= gave {type(made).__qualname__} for {target.cls.__qualname__}; return an object of that class"
                )
            prepared: Prepared[Any] = made.prepare(self._method or "call", **options)
            return prepared
        if self._transform is None:
            made = codec.decode(args, target.signature.types, what=f"{target.name}()")
        if not isinstance(made, Mapping):
            raise InvalidInput(
                f"transform= gave {type(made).__qualname__} for {target.name}(); return a dictionary of its arguments"
            )
        return target.set(**options).prepare(**made)

    def _meta(self) -> Mapping[str, Any]:
        merged = {**self._target.options_of(self._method), **self._own}
        return merged.get("meta") or {}


def _kind(target: str, name: str) -> str:
    """The kind of what passes on to *target*, as short as a kind must be, and the same in every process."""
    kind = f"{target} < {name}"
    if len(kind) <= LONGEST_NAME and kind.isprintable():
        return kind
    return f"{target[:80]} < {blake2b(kind.encode(), digest_size=8).hexdigest()}"
