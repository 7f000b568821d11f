"""The methods of a `Later` class that may be jobs, by name."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import attrs

from asyncjobs._define.call import is_async, is_generator
from asyncjobs._define.definition import Definition
from asyncjobs._define.hooks import HOOKS
from asyncjobs._define.signature import FunctionSignature, method_signature
from asyncjobs.errors import InvalidDefinition

RESERVED = ("later", "later_many", "later_sync", "prepare")
NO_JOBS = frozenset({*RESERVED, "needed", *HOOKS})  #: asyncjobs calls them, or they call it

MOST_MISSING = 1000  #: names


class NoSuchMethod(InvalidDefinition, AttributeError):
    """A name that no public method of the object has."""


class UnknownMethod(NoSuchMethod):
    """A stored job names a method that the class does not have in this process; newer code may have it."""

    def __init__(self, message: str, known_for: float) -> None:
        super().__init__(message)
        self.known_for = known_for  #: seconds since a job asked for it first


@attrs.frozen
class Method:
    """A method that may be a job."""

    name: str
    what: str  #: for messages
    function: Any
    is_async: bool
    takes_arguments: bool  #: `@job` methods; their arguments are stored beside the fields
    signature: FunctionSignature
    options: Mapping[str, Any]


class Methods:
    """Those of one class, looked up when they are asked for first."""

    def __init__(self, cls: type[Any], home: str, renamed: Mapping[str, str]) -> None:
        self._cls = cls
        self._home = home
        self._renamed = renamed
        self._found: dict[str, Method] = {}
        self._missing: dict[str, float] = {}  #: since when
        self._check_renamed()

    def find(self, name: str) -> Method:
        """The method called *name*. Raises NoSuchMethod, and InvalidDefinition for one that is no job."""
        if name not in self._found:
            self._found[name] = self._look_up(name)
        return self._found[name]

    def stored(self, name: str) -> Method:
        """The method that a stored job names, maybe by a former name. Raises UnknownMethod where newer code may have it."""
        known = self._found.get(name)
        if known is not None:
            return known
        try:
            return self.find(self._renamed.get(name, name))
        except NoSuchMethod as error:
            if not name.isidentifier() or name.startswith("_") or name in NO_JOBS:
                raise  # no code ever has it
            if len(self._missing) >= MOST_MISSING:  # whoever may store jobs may name anything
                self._missing.clear()
            now = time.monotonic()
            raise UnknownMethod(str(error), now - self._missing.setdefault(name, now)) from None

    def public(self) -> Mapping[str, Any]:
        """What may be called from outside, as the class has it."""
        return {
            name: value
            for name, value in inspect.getmembers_static(self._cls)
            if not name.startswith("_")
            and name not in NO_JOBS
            and (inspect.isfunction(value) or isinstance(value, Definition))
        }

    def _check_renamed(self) -> None:
        for former, today in self._renamed.items():
            if not callable(getattr(self._cls, today, None)):
                raise InvalidDefinition(
                    f"{self._cls.__qualname__} has no method {today!r}, though it says that {former!r} is called so today (renamed=)"
                    f"{self._hint(today)}"
                )
            if hasattr(self._cls, former):
                raise InvalidDefinition(
                    f"{self._cls.__qualname__} has {former!r}, though it says that this is called {today!r} today (renamed=); "
                    "a stored job could mean either, so take it out of one"
                )

    def _look_up(self, name: str) -> Method:
        function = inspect.getattr_static(self._cls, name, None)
        what = f"{self._cls.__qualname__}.{name}"
        options = self._cls.__asyncjobs_options__
        if isinstance(function, Definition):
            signature = method_signature(self._cls, name, function.function, function.home)
            merged = {**options, **function.options}
            return Method(name, what, function.function, function.is_async, True, signature, merged)
        if function is None or name in NO_JOBS:
            raise NoSuchMethod(f"{self._cls.__qualname__} has no public method {name!r}{self._hint(name)}")
        if name.startswith("_"):
            raise InvalidDefinition(
                f"{what} is private, but a job names it from outside; give it a public name"
            )
        if not inspect.isfunction(function):
            raise InvalidDefinition(f"{what} is not a method of its objects{self._hint(name)}")
        if is_generator(function):
            raise InvalidDefinition(f"{what} is a generator; a job returns once, so collect what it yields")
        signature = method_signature(self._cls, name, function, f"{self._home}.{name}")
        if signature.needs:
            raise InvalidDefinition(
                f"{what} takes arguments ({', '.join(signature.needs)}), and `later` passes none; decorate it with @job and "
                f"write `await obj.{name}.later(…)`"
            )
        return Method(name, what, function, is_async(function), False, signature, options)

    def _hint(self, name: str) -> str:
        methods = sorted(self.public())
        near = get_close_matches(name, methods, 1)
        return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(methods) or 'none'}"
