"""Words into calls: `ExportStations.call tenant=acme` is `ExportStations("acme").call()`, now or later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Protocol

import attrs
import click

from asyncjobs._bus.publisher import DUE
from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import Definition
from asyncjobs._define.dependency import SUPPLIED, may_be_none
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._define.kind import Kind
from asyncjobs._define.later import Later
from asyncjobs._define.service import Service
from asyncjobs._define.signature import Signature, Taken
from asyncjobs._model.verbs import Missing
from asyncjobs.cli.exits import Exit, Refused
from asyncjobs.cli.words import read_inputs
from asyncjobs.errors import InvalidDefinition, JobsError, UnknownKind

Supply = Mapping[Any, Any]


class Wording(Protocol):
    """A call that was written on the command line."""

    @property
    def what(self) -> str:
        """Its name, for messages."""

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""

    @property
    def result_type(self) -> Any:
        """What it is declared to return."""

    def needs(self) -> frozenset[Any]:
        """The dependencies `ready` must be given."""

    def ready(self, supply: Supply) -> Callable[[], Any]:
        """What to call, to call it now. Raises InvalidInput."""

    def prepare(self, options: Mapping[str, Any]) -> Prepared[Any]:
        """The job, to be stored; what it depends on is supplied where it runs. Raises InvalidInput, InvalidOption."""

    def stored(self, codec: Codec) -> str:
        """The inputs that would be stored, for who asks for them while it is called now. Raises click.UsageError."""


def read_call(name: str, words: Sequence[str]) -> Wording:
    """The call *name* means, with its inputs. Raises Refused, click.UsageError."""
    definition, method = _find(name)
    if isinstance(definition, Definition):
        return FunctionCall(definition, read_inputs(words, definition.signature.types, definition.name))
    assert isinstance(definition, Service)
    return _method_call(definition, method or _the_method(definition), words)


def _find(name: str) -> tuple[Kind, str | None]:
    """The definition, and the method where one is named."""
    try:
        return registry.find_by_ending(name), None
    except UnknownKind as error:
        if _endings(name):
            raise Refused(str(error), Exit.USAGE) from error
    owner, _, method = name.rpartition(".")
    candidates = _endings(owner) if owner else []
    if len(candidates) == 1 and isinstance(found := registry.find_by_ending(candidates[0]), Service):
        return found, method
    if len(candidates) > 1:
        raise Refused(f"{owner!r} could be any of {', '.join(candidates)}; write more of it", Exit.USAGE)
    raise Refused(f"no job is defined as {name!r}{_kinds_like(name)}", Exit.NOT_FOUND)


def _endings(ending: str) -> list[str]:
    """The kinds *ending* may mean."""
    kinds = sorted(registry.defined_kinds())
    return (
        [ending]
        if ending in kinds
        else [kind for kind in kinds if kind.endswith((f":{ending}", f".{ending}"))]
    )


def _kinds_like(name: str) -> str:
    shorts = {kind.rpartition(":")[2]: kind for kind in sorted(registry.defined_kinds() - {DUE})}
    near = get_close_matches(name, shorts, 1) or get_close_matches(name.rpartition(".")[0], shorts, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    some = ", ".join(sorted(shorts)[:10]) + (", …" if len(shorts) > 10 else "")
    return (
        f"; there are {some}"
        if some
        else "; the module of your Jobs must import the modules that define jobs"
    )


def _the_method(service: Service) -> str:
    """`call`, or the only method there is."""
    methods = _methods(service)
    if "call" in methods:
        return "call"
    if len(methods) == 1:
        return methods[0]
    owner = service.cls.__name__
    raise Refused(
        f"which method of {owner}? Write {' or '.join(f'{owner}.{method}' for method in methods)}"
        if methods
        else f"{owner} has no method a job could call",
        Exit.USAGE,
    )


def _methods(service: Service) -> list[str]:
    """The methods `later` takes."""
    methods = []
    for name, _ in inspect.getmembers_static(service.cls):
        with suppress(InvalidDefinition):
            methods.append(service.methods.find(name).name)
    return methods


class FunctionCall:
    """A function decorated with @job, and its inputs."""

    def __init__(self, definition: Definition[Any, Any, Any], inputs: dict[str, Any]) -> None:
        self.definition = definition
        self.what = definition.name
        self.inputs = inputs

    @property
    def is_async(self) -> bool:
        return self.definition.is_async

    @property
    def result_type(self) -> Any:
        return self.definition.result_type(None)

    def needs(self) -> frozenset[Any]:
        return self.definition.dependencies()

    def ready(self, supply: Supply) -> Callable[[], Any]:
        return _ready(self.definition.function, self.definition.signature, self.inputs, supply, self.what)

    def prepare(self, options: Mapping[str, Any]) -> Prepared[Any]:
        args, kwargs = _arguments(self.definition.signature, self.inputs, self.what)
        return self.definition.set(**options).prepare(*args, **kwargs)

    def stored(self, codec: Codec) -> str:
        _check_complete(self.definition.signature, self.inputs, self.what)
        return codec.encode(self.inputs, self.definition.signature.types, what=self.what)


@attrs.frozen
class MethodCall:
    """A method of a service object, the object's fields, and the arguments of the method when it is a @job itself."""

    service: Service
    method: str
    fields: dict[str, Any]
    arguments: dict[str, Any]

    @property
    def what(self) -> str:
        return self.service.methods.find(self.method).what

    @property
    def is_async(self) -> bool:
        return self.service.methods.find(self.method).is_async

    @property
    def result_type(self) -> Any:
        return self.service.result_type(self.method)

    def needs(self) -> frozenset[Any]:
        return self.service.dependencies(self.method)

    def ready(self, supply: Supply) -> Callable[[], Any]:
        function = getattr(self._make(supply), self.method)
        return _ready(
            function, self.service.methods.find(self.method).signature, self.arguments, supply, self.what
        )

    def prepare(self, options: Mapping[str, Any]) -> Prepared[Any]:
        instance = self._make(stand_ins(self.service._signature))
        found = self.service.methods.find(self.method)
        if not found.takes_arguments:
            return instance.prepare(self.method, **options)
        args, kwargs = _arguments(found.signature, self.arguments, self.what)
        prepared: Prepared[Any] = getattr(instance, self.method).set(**options).prepare(*args, **kwargs)
        return prepared

    def stored(self, codec: Codec) -> str:
        name = self.service.cls.__qualname__
        _check_complete(self.service._signature, self.fields, name)
        _check_complete(self.service.methods.find(self.method).signature, self.arguments, self.what)
        try:
            return self.prepare({}).encode(codec)
        except (
            JobsError,
            click.UsageError,
        ):  # it cannot be made without what it depends on: no defaults, then
            return codec.encode(self.fields, self.service._signature.types, what=name)

    def _make(self, supply: Supply) -> Later:
        name = self.service.cls.__qualname__
        _check_complete(self.service._signature, self.fields, name)
        try:
            made: Later = self.service._make(self.fields, supply, name)
        except (JobsError, Missing):
            raise
        except Exception as error:
            raise click.UsageError(f"{name} refuses these inputs: {type(error).__name__}: {error}") from error
        return made


def _method_call(service: Service, method: str, words: Sequence[str]) -> MethodCall:
    try:
        found = service.methods.find(method)
    except InvalidDefinition as error:
        raise Refused(str(error), Exit.USAGE if hasattr(service.cls, method) else Exit.NOT_FOUND) from error
    fields = service._signature.types
    arguments = found.signature.types if found.takes_arguments else {}
    if both := sorted(fields.keys() & arguments.keys()):
        raise Refused(
            f"{found.what}: {', '.join(both)} is both a field and an argument; call it from Python",
            Exit.USAGE,
        )
    values = read_inputs(words, {**fields, **arguments}, found.what)
    return MethodCall(
        service,
        method,
        fields={name: value for name, value in values.items() if name in fields},
        arguments={name: value for name, value in values.items() if name in arguments},
    )


def _ready(
    function: Callable[..., Any], signature: Signature, inputs: Mapping[str, Any], supply: Supply, what: str
) -> Callable[[], Any]:
    _check_complete(signature, inputs, what)
    return signature.ready(function, dict(inputs), supply, what)


def _arguments(
    signature: Signature, inputs: Mapping[str, Any], what: str
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Inputs by name as the arguments of a call: some parameters take none by name."""
    _check_complete(signature, inputs, what)
    bound = inspect.BoundArguments(signature._signature, dict(inputs))
    return bound.args, bound.kwargs


def stand_ins(signature: Signature) -> dict[Any, Any]:
    """What a call of `later` would have in place of each dependency: its default, else nothing that can be used yet."""
    return {each.wanted: _stand_in(each) for each in signature.taken.values() if each.wanted is not None}


def _stand_in(taken: Taken) -> Any:
    default = taken.parameter.default
    if default is inspect.Parameter.empty or (default is None and not may_be_none(taken.type)):
        return SUPPLIED
    return default


def _check_complete(signature: Signature, inputs: Mapping[str, Any], what: str) -> None:
    for name, taken in signature.taken.items():
        if taken.needs_a_value and taken.wanted is None and name not in inputs:
            raise click.UsageError(f"{what} needs {name}: write {name}=…")
