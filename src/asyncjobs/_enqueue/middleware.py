"""Middleware: code of the application's around every enqueue and every run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import attrs

from asyncjobs._model.job import NewJob
from asyncjobs._model.words import counted
from asyncjobs.errors import InvalidOption

EVENTS = ("enqueue", "run", "error", "failure")


@attrs.frozen
class Layer:
    """One middleware, as it is called."""

    enqueue: Callable[..., Awaitable[Any]] | None = None
    run: Callable[..., Awaitable[Any]] | None = None
    error: Callable[..., Awaitable[Any]] | None = None
    failure: Callable[..., Awaitable[Any]] | None = None


def layers(given: Iterable[Any]) -> tuple[Layer, ...]:
    """*given*, the outermost first: async functions around a run, or objects with async methods named for EVENTS."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidOption(f"middleware={given!r} is not a list; write middleware=[{given!r}]")
    return tuple(_layer(each) for each in given)


def _layer(given: Any) -> Layer:
    if isinstance(given, type):
        raise InvalidOption(
            f"middleware={given.__qualname__} is a class; pass an object: {given.__qualname__}(…)"
        )
    found = {event: getattr(given, event) for event in EVENTS if callable(getattr(given, event, None))}
    if not found and callable(given):
        found = {"run": given}
    if not found:
        raise InvalidOption(
            f"middleware={given!r:.160} is none; pass an async function (job, call_next), or an object with async methods "
            f"named {', '.join(EVENTS)}"
        )
    for event, function in found.items():
        if not (
            inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        ):
            raise InvalidOption(f"{event} of middleware {given!r:.160} is not async; make it `async def`")
    return Layer(**found)


Store = Callable[[Sequence[NewJob]], Awaitable[Any]]


def around_enqueue(middleware: Sequence[Layer], store: Store) -> Store:
    """*store*, with the middleware that wants to know around it."""
    for layer in reversed(middleware):
        if layer.enqueue is not None:
            store = partial(_next, layer.enqueue, store)
    return store


async def _next(layer: Callable[..., Awaitable[Any]], inner: Store, jobs: Sequence[NewJob]) -> Any:
    stored = await layer(jobs, inner)
    if stored is None or len(stored) != len(jobs):
        raise InvalidOption(
            f"middleware enqueue {layer!r:.160} must return what call_next returned: one for each of {counted(len(jobs), 'job')}"
        )
    return stored
