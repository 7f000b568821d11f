"""A job made ready to run: the user's function with its arguments in place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs


@attrs.define(eq=False)
class Hooks:
    """The hooks of one object."""

    _instance: Any
    _known: Mapping[str, int]

    def ready(self, name: str, *args: Any) -> Callable[[], Any] | None:
        """The hook of that name with its arguments in place; None where the object has none."""
        takes = self._known.get(name)
        if takes is None:
            return None
        return functools.partial(getattr(self._instance, name), *args[:takes])


@attrs.define(eq=False)  # made for every job
class Call:
    """What an attempt calls, and what it should know before and after."""

    function: Callable[[], Any]
    is_async: bool
    result_type: Any
    what: str  #: for messages: `ExportStations.call`
    needed: Callable[[], bool | Awaitable[bool]] | None = (
        None  #: asked first: is there still something to do?
    )
    hooks: Hooks | None = None  #: of the object; None where it has none


def is_async(function: Any) -> bool:
    """Whether calling *function* gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__func__", None)
    )


def is_generator(function: Any) -> bool:
    """Whether calling *function* gives something that yields."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
