"""`@subscribe("user_changed")`: a job that runs whenever something happens. The subscriptions of this process, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn, ParamSpec, TypeVar, Unpack, overload

import attrs

from asyncjobs._bus.relay import Relay, Transform
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import Definition, job
from asyncjobs._define.enqueueing import call_options
from asyncjobs._define.later import Later
from asyncjobs._define.registry import check_findable
from asyncjobs._define.service import Service
from asyncjobs._enqueue.carried import meta_of
from asyncjobs._model.events import Is, Subscription, Wanted, check_where, names_of
from asyncjobs._model.keys import key_words
from asyncjobs._model.options import JOB_WORDS, DefinitionOptions, check_name, check_words, stored_options
from asyncjobs._model.queues import place_of, queues
from asyncjobs._model.versions import stored_name
from asyncjobs.errors import InvalidDefinition, InvalidInput, InvalidOption

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
L = TypeVar("L", bound=Later)

_subscriptions: dict[str, Subscription] = {}


def subscriptions() -> list[Subscription]:
    """What the code of this process subscribes to, by name."""
    return [_subscriptions[name] for name in sorted(_subscriptions)]


def unsubscribe(name: str) -> None:
    """Take a subscription out of this process' code again, as if it were not written; declared ones go with the next start."""
    _subscriptions.pop(name, None)


def subscribe(
    event: str | re.Pattern[str],
    *,
    where: Mapping[str, Wanted] | None = None,
    name: str | None = None,
    call: str = "call",
    transform: Transform | None = None,
    **options: Unpack[DefinitionOptions],
) -> _Subscribe:
    """Run this job for every *event* that is published: a name, a glob (`user_*`), or a compiled regular expression.

    Its inputs are the event's attributes by name, or what *transform* makes of the event; a parameter annotated `Event` is
    the event itself. *where* says what attributes must be (a literal, `Is.PRESENT` …, a compiled regular expression): all of
    it, and `{}` matches nothing. A plain function becomes a `@job` with *options*; of a job or a `Later` class (whose method
    *call* runs) they are this subscription's own. *name* tells two subscriptions of one job to the same events apart.
    """
    _check_storable(check_where(where))
    if name is not None:
        check_name(name, "name")
    return _Subscribe(event, names_of(event), check_where(where), name, call, transform, options)


@attrs.frozen
class _Subscribe:
    _event: str | re.Pattern[str]
    _names: Mapping[str, Any]
    _where: Mapping[str, Wanted] | None
    _name: str | None
    _call: str
    _transform: Transform | None
    _options: DefinitionOptions

    @overload
    def __call__(self, target: type[L], /) -> type[L]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Definition[P, T, R], /) -> Definition[P, T, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Definition[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> Definition[P, R, R]: ...
    def __call__(self, target: Any, /) -> Any:
        if isinstance(target, type) and issubclass(target, Later):
            service: Service = target.__asyncjobs_service__  # type: ignore[attr-defined]
            service.check_takes_nothing(self._call)
            self._subscribe(service, self._call)
            return target
        if isinstance(target, Definition):
            self._subscribe_job(target, self._own())
            return target
        if self._call != "call":
            _refuse(
                f"call={self._call!r} names the method of a Later class, and this subscribes {target!r:.80}"
            )
        definition: Definition[..., Any, Any] = job(**self._options)(target)
        self._subscribe_job(definition, {})
        return definition

    def _own(self) -> Mapping[str, Any]:
        """Options beside those the job was defined with."""
        check_words(self._options, JOB_WORDS, "subscribe")
        return call_options(self._options, "subscribe")

    def _subscribe_job(self, definition: Definition[..., Any, Any], own: Mapping[str, Any]) -> None:
        if definition.is_method:
            _refuse(
                f"{definition.home} is a method; subscribe its class, and name the method: @subscribe(…, call={definition.name!r})"
            )
        self._add(definition, None, own)

    def _subscribe(self, service: Service, method: str) -> None:
        self._add(service, method, self._own())

    def _add(self, target: Any, method: str | None, own: Mapping[str, Any]) -> None:
        check_findable(target.kind, target.home)
        options = {**target.options_of(method), **own}
        name = (
            self._name
            or f"{target.history.first_name(target.kind)}{_dotted(target, method)} on {_words(self._event)}"
        )
        kind = stored_name(target.kind, target.history.version)
        if self._transform is not None or key_words(options):
            # What makes its keys or its inputs is code, which the publisher does not have.
            relay = Relay(target, method, own, self._transform, name)
            kind, method = relay.kind, None
            own, options = {}, {**options, "meta": None}
        subscription = Subscription(
            **self._names,
            name=name,
            where=self._where,
            kind=kind,
            method=method,
            queue=place_of(options, queues)[0],
            priority=options.get("priority"),
            max_attempts=options["max_attempts"],
            tags=options.get("tags"),
            meta=meta_of(options),
            options=stored_options(own),
        )
        known = _subscriptions.get(name)
        if known is not None and known != subscription:
            _refuse(
                f"there is a subscription {name!r} already, which is another one; give this one a name of its own with name="
            )
        _subscriptions[name] = subscription


def _check_storable(where: Mapping[str, Wanted] | None) -> None:
    literals = {
        key: None if isinstance(each, Is | re.Pattern) else each for key, each in (where or {}).items()
    }
    try:
        Codec().encode_plain(literals, what="where=")
    except InvalidInput as error:
        raise InvalidOption(str(error)) from error


def _dotted(target: Any, method: str | None) -> str:
    """The method as it was called first: a subscription keeps its name when what it runs is renamed."""
    first = None if method is None else target.history.first_method(method)
    return "" if first in (None, "call") else f".{first}"


def _words(event: str | re.Pattern[str]) -> str:
    return event if isinstance(event, str) else event.pattern


def _refuse(sentence: str) -> NoReturn:
    raise InvalidDefinition(sentence)
