"""What a function or a class takes: its inputs, which are stored by name, and its dependencies, which are supplied."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import GenericAlias
from typing import Any, TypeVar, Unpack, get_args, get_origin

import attrs

from asyncjobs._define.dependency import dependency, may_be_none
from asyncjobs._define.hints import Given, field_hints, hints_of, type_arguments
from asyncjobs._enqueue.options import LATER_WORDS
from asyncjobs._model import elsewhere
from asyncjobs._model.verbs import Missing
from asyncjobs.errors import InvalidDefinition, InvalidInput, UndecodableInput

T = TypeVar("T")

_P = inspect.Parameter
ADVICE = "; give it a default for jobs enqueued before it"
MANY = (_P.VAR_POSITIONAL, _P.VAR_KEYWORD)


@attrs.frozen
class Taken:
    """One parameter."""

    parameter: inspect.Parameter
    type: Any
    wanted: Any  #: the dependency it is; None for an input
    attribute: str  #: where an object keeps it

    @property
    def needs_a_value(self) -> bool:
        """Nothing stands in for it when it is left out."""
        return self.parameter.default is _P.empty and self.parameter.kind not in MANY


class Signature:
    """The parameters of something that is called. They are looked at when first needed: annotations may refer forward."""

    def __init__(self, home: str) -> None:
        self.home = home

    def _take(self) -> Iterator[Taken]:
        raise NotImplementedError

    @functools.cached_property
    def taken(self) -> Mapping[str, Taken]:
        """Each parameter, by name."""
        return {each.parameter.name: each for each in self._take()}

    @functools.cached_property
    def supplied(self) -> Mapping[str, Any]:
        """The parameters that are dependencies, and what they ask for."""
        return {name: each.wanted for name, each in self.taken.items() if each.wanted is not None}

    @functools.cached_property
    def types(self) -> Mapping[str, Any]:
        """The parameters that are inputs, and their types."""
        return {name: each.type for name, each in self.taken.items() if each.wanted is None}

    @functools.cached_property
    def needs(self) -> tuple[str, ...]:
        """The inputs that must be given."""
        return tuple(name for name, each in self.taken.items() if each.needs_a_value and each.wanted is None)

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.Signature([each.parameter for each in self.taken.values()])

    @functools.cached_property
    def _plain(self) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]] | None:
        """Positional names, all names, required names, where every parameter is plain: `inspect` takes 6 µs to bind."""
        taken = self.taken.values()
        plain = (_P.POSITIONAL_OR_KEYWORD, _P.KEYWORD_ONLY)
        if any(each.wanted is not None or each.parameter.kind not in plain for each in taken):
            return None
        positional = tuple(name for name, each in self.taken.items() if each.parameter.kind is plain[0])
        required = frozenset(name for name, each in self.taken.items() if each.needs_a_value)
        return positional, frozenset(self.taken), required

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Bind a call, in the caller: the inputs by name. Raises InvalidInput when they do not fit."""
        if self._plain is not None:
            positional, names, required = self._plain
            given = dict(zip(positional, args, strict=False))
            if len(args) <= len(positional) and not given.keys() & kwargs and kwargs.keys() <= names:
                given.update(kwargs)
                if required <= given.keys():
                    return given
        try:
            bound = self._signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidInput(
                f"{what} does not take these arguments: {error}{self._advice(kwargs)}"
            ) from error
        for name in self.needs:
            if name not in bound:
                raise InvalidInput(f"{what} needs a value for {name!r}")
        return {name: value for name, value in bound.items() if name not in self.supplied}

    def _advice(self, kwargs: Mapping[str, Any]) -> str:
        for word in kwargs:
            if word not in self.taken:
                if word in LATER_WORDS:
                    return f"; options are said before the arguments: .set({word}=…).later(…)"
                near = get_close_matches(word, self.taken, 1)
                if near:
                    return f"; did you mean {near[0]!r}?"
                if word in elsewhere.OPTIONS:
                    return f"; {elsewhere.OPTIONS[word]}"
        return ""

    def ready(
        self, function: Callable[..., T], inputs: Mapping[str, Any], supply: Mapping[Any, Any], what: str
    ) -> Callable[[], T]:
        """*function* with its inputs and what is supplied. Raises UndecodableInput when one is missing."""
        if self._plain is not None and self._plain[2] <= inputs.keys():
            return functools.partial(function, **inputs)
        bound = self.arguments(inputs, supply, what)
        return functools.partial(function, *bound.args, **bound.kwargs)

    def arguments(
        self, inputs: Mapping[str, Any], supply: Mapping[Any, Any], what: str
    ) -> inspect.BoundArguments:
        """Inputs and what is supplied, as the arguments of a call. Raises UndecodableInput when one is missing."""
        bound = inspect.BoundArguments(self._signature, OrderedDict())
        by_position = any(each.parameter.kind is _P.VAR_POSITIONAL for each in self.taken.values())
        for name, each in self.taken.items():
            if each.wanted is not None:
                bound.arguments[name] = supplied = supply[each.wanted]
                if supplied is None and not may_be_none(each.type):
                    wanted = getattr(each.wanted, "__qualname__", each.wanted)
                    raise Missing(f"{what} needs {name!r}, and what provides {wanted} returned nothing")
            elif name in inputs:
                bound.arguments[name] = inputs[name]
            elif each.needs_a_value:
                raise UndecodableInput(
                    f"{what} needs {name!r}, which this job was stored without{ADVICE}",
                    reason="missing input",
                    input_name=name,
                )
            elif each.parameter.kind is _P.POSITIONAL_ONLY or (
                by_position and each.parameter.kind is _P.POSITIONAL_OR_KEYWORD
            ):  # what stands behind it is passed by position
                bound.arguments[name] = each.parameter.default
        return bound


class _StandIns(dict[Any, Any]):
    def __missing__(self, wanted: Any) -> Any:
        return self  # whatever it is: not None


STAND_INS: Mapping[Any, Any] = _StandIns()
"""Something for every dependency, where inputs are tried out and nothing is called."""


class FunctionSignature(Signature):
    """The parameters of a function, without `self`, and its result."""

    def __init__(self, function: Any, home: str, *, is_method: bool, given: Given | None = None) -> None:
        super().__init__(home)
        self._function = function
        self._is_method = is_method
        self._given = given

    @functools.cached_property
    def _hints(self) -> Mapping[str, Any]:
        return hints_of(self._function, self.home, self._given)

    @functools.cached_property
    def result_type(self) -> Any:
        """What the function is declared to return; None's type is written `None`."""
        declared = self._hints.get("return", Any)
        return type(None) if declared is None else declared

    def _take(self) -> Iterator[Taken]:
        for parameter in parameters(self._function, is_method=self._is_method):
            hint = self._hints.get(parameter.name, Any)
            yield Taken(parameter, _of_many(hint, parameter), dependency(hint), parameter.name)


class ClassSignature(Signature):
    """What a class is made from: its fields, or the parameters its objects keep under their own names."""

    def __init__(self, cls: type, home: str) -> None:
        super().__init__(home)
        self._cls = cls

    def _take(self) -> Iterator[Taken]:
        cls: Any = self._cls
        if cls.__init__ is object.__init__:
            return
        kept = _fields(cls)
        hints = field_hints(cls, self.home)
        taken = parameters(cls.__init__, is_method=True)
        if any(kept.get(each.name, each.name) not in hints for each in taken):  # said in `__init__` only
            hints = {**hints_of(cls.__init__, self.home, _given(cls, "__init__")), **hints}
        for parameter in taken:
            name = parameter.name
            if parameter.kind in MANY:
                stars = "*" if parameter.kind is _P.VAR_POSITIONAL else "**"
                raise InvalidDefinition(
                    f"{self.home}.__init__ takes {stars}{name}, so those inputs have no names to be stored under; name them"
                )
            if is_dataclass(cls) and name not in kept and name in cls.__dataclass_fields__:
                raise InvalidDefinition(
                    f"{self.home}.{name} is an InitVar, which its objects do not keep, so it cannot be stored; make it a field"
                )
            attribute = kept.get(name, name)
            hint = hints.get(attribute, Any)
            yield Taken(parameter, hint, dependency(hint), attribute)

    @functools.cached_property
    def may_change_inputs(self) -> bool:
        """Code of the user's runs while an object is made, so it may keep something else than it was given."""
        cls: Any = self._cls
        if attrs.has(cls):
            hooks = (
                "__attrs_pre_init__",
                "__attrs_post_init__",
                "__attrs_init__",
            )  # the last: it has a hand-written one
            return any(hasattr(cls, hook) for hook in hooks) or any(
                field.converter for field in attrs.fields(cls)
            )
        if is_dataclass(cls):
            return hasattr(cls, "__post_init__") or not vars(cls)["__dataclass_params__"].init
        return bool(self.types)


def parameters(function: Any, *, is_method: bool) -> list[inspect.Parameter]:
    """The parameters of *function*, without `self`."""
    found = list(inspect.signature(function).parameters.values())
    return found[1:] if is_method and found and found[0].kind is not _P.VAR_POSITIONAL else found


def defined_in(cls: type, name: str) -> type:
    """The class that defines *name* for *cls*."""
    return next((each for each in cls.__mro__ if name in each.__dict__), cls)


def _given(cls: type, name: str) -> Given:
    return type_arguments(cls).get(defined_in(cls, name), {})


def method_signature(cls: type, name: str, function: Any, home: str) -> FunctionSignature:
    """The signature of a method, with the type variables of its class as they stand in *cls*."""
    return FunctionSignature(function, home, is_method=True, given=_given(cls, name))


def _fields(cls: Any) -> dict[str, str]:
    """What `__init__` calls a field, and what its objects call it: an attrs field `_key` is passed as `key`."""
    if attrs.has(cls):
        return {field.alias or field.name: field.name for field in attrs.fields(cls) if field.init}
    if is_dataclass(cls):
        return {field.name: field.name for field in dataclass_fields(cls) if field.init}
    return {}


def _of_many(hint: Any, parameter: inspect.Parameter) -> Any:
    """The type of all that `*args` or `**kwargs` catches."""
    if parameter.kind not in MANY:
        return hint
    if get_origin(hint) is Unpack:
        return get_args(hint)[0]
    return (
        GenericAlias(tuple, (hint, ...))
        if parameter.kind is _P.VAR_POSITIONAL
        else GenericAlias(dict, (str, hint))
    )
