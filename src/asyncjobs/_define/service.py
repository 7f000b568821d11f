"""`Later`: any service object, now or later. Its fields are the stored inputs; any of its methods may be the job."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, Unpack, get_type_hints, overload

import attrs

from asyncjobs._define.call import Call, is_async, return_type
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import BoundJob, Definition, Signature
from asyncjobs._define.dependency import dependency
from asyncjobs._define.enqueueing import Prepared, call_options, enqueue, enqueue_many
from asyncjobs._define.handle import Handle
from asyncjobs._define.registry import check_findable, kind_of, register
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._model.options import DEFAULTS, DefinitionOptions, definition_options
from asyncjobs.errors import InvalidDefinition, InvalidInput, UndecodableInput

R = TypeVar("R")

ARGUMENTS = "()"
"""Where the arguments of a `@job` method are stored, beside the fields: no field can have this name."""

_RESERVED = ("later", "later_many", "prepare")


class Later:
    """Derive a service object from it, and `await obj.later("call")` runs the same object's method as a job.

    For attrs classes, dataclasses, and plain classes that keep their `__init__` parameters under their own names.
    Class keywords are the options of its jobs and are inherited: `class Export(Later, queue="exports"):`.
    """

    __slots__ = ()
    __asyncjobs_options__: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **options: Unpack[DefinitionOptions]) -> None:
        super().__init_subclass__()
        for name in _RESERVED:
            if name in cls.__dict__ or name in inspect.get_annotations(cls):
                raise InvalidDefinition(
                    f"{cls.__qualname__}.{name} would hide asyncjobs' own {name}; give it another name"
                )
        # A slots class is made twice, the second time without keywords, from a copy of the first one's body.
        own = cls.__dict__.get("__asyncjobs_own__")
        if own is None:
            own = definition_options(options, f"class {cls.__qualname__}")
            cls.__asyncjobs_own__ = own  # type: ignore[attr-defined]
        inherited = {
            word: value
            for base in reversed(cls.__mro__[1:])
            for word, value in base.__dict__.get("__asyncjobs_own__", {}).items()
            if word != "kind"
        }
        cls.__asyncjobs_options__ = {**DEFAULTS, **inherited, **{k: v for k, v in own.items() if k != "kind"}}
        service = Service(cls, own.get("kind") or kind_of(cls))
        cls.__asyncjobs_service__ = service  # type: ignore[attr-defined]
        register(service)

    @overload
    async def later(self, call: str, /, **options: Unpack[LaterOptions]) -> Handle[Any]: ...
    @overload
    async def later(
        self, call: Callable[[], Coroutine[Any, Any, R]], /, **options: Unpack[LaterOptions]
    ) -> Handle[R]: ...
    @overload
    async def later(self, call: Callable[[], R], /, **options: Unpack[LaterOptions]) -> Handle[R]: ...
    async def later(self, call: Any, /, **options: Any) -> Handle[Any]:
        """Enqueue a method of this object, by name or bound: `later("call")`, `later(self.call)`.

        It runs when the transaction it joins has committed (`on=`, or the ambient `jobs.on(…)`), else it is committed
        here. Raises InvalidInput, InvalidOption and InvalidDefinition in the caller, at once.
        """
        return await enqueue(
            _service(self).prepare(self, _name_of(self, call), call_options(options, "later"), (), {})
        )

    def prepare(self, call: str | Callable[[], Any], /, **options: Unpack[LaterOptions]) -> Prepared[Any]:
        """The call with its inputs, for `jobs.enqueue_many`."""
        return _service(self).prepare(self, _name_of(self, call), call_options(options, "prepare"), (), {})

    @classmethod
    async def later_many(
        cls, objects: Iterable[Later], call: str, /, **options: Unpack[LaterOptions]
    ) -> list[Handle[Any]]:
        """Enqueue the method named *call* of many objects in one statement, all or none; handles in their order."""
        checked = call_options(options, "later_many")
        prepared = [_service(each).prepare(each, _name_of(each, call), checked, (), {}) for each in objects]
        return await enqueue_many(prepared, options.get("jobs"), options.get("on"))

    def __asyncjobs_prepare__(
        self, name: str, call: Mapping[str, Any], args: Any, kwargs: Any
    ) -> Prepared[Any]:
        return _service(self).prepare(self, name, call, args, kwargs)


def _service(instance: Later) -> Service:
    service: Service | None = getattr(type(instance), "__asyncjobs_service__", None)
    if service is None:
        raise InvalidDefinition("Later itself is no job; derive a class from it")
    return service


def _name_of(instance: Later, call: Any) -> str:
    """The method meant: its name, or the method bound to this very object."""
    if isinstance(call, str):
        return call
    name = getattr(call, "__name__", None)
    if name is None or not (inspect.ismethod(call) or isinstance(call, BoundJob)):
        raise InvalidDefinition(f"later takes a method of the object, by name or bound, not {call!r}")
    if call.__self__ is not instance:
        raise InvalidDefinition(f"{name} is bound to another object than the one that is enqueued")
    return str(name)


@attrs.frozen
class _Field:
    name: str
    init_name: str
    type: Any
    required: bool


@attrs.frozen
class _Method:
    name: str
    is_async: bool
    takes_arguments: bool  #: `@job` methods; their arguments are stored beside the fields
    signature: Signature
    options: Mapping[str, Any]
    result_type: Any


class Service:
    """A `Later` class, as the engine sees it: inputs into an object, a method's name into a call."""

    def __init__(self, cls: type[Later], kind: str) -> None:
        self.cls = cls
        self.kind = kind
        self.home = f"{cls.__module__}.{cls.__qualname__}"
        self._methods: dict[str, _Method] = {}

    def prepare(
        self,
        instance: Later,
        name: str,
        call: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Prepared[Any]:
        """A call of the method *name* on an object like *instance*."""
        check_findable(self.kind, self.home)
        method = self._method(name)
        what = f"{self.cls.__qualname__}.{name}"
        inputs = self._inputs_of(instance)
        arguments = method.signature.inputs(args, kwargs, what) if method.takes_arguments else None

        def encode(codec: Codec) -> str:
            text = codec.encode(inputs, self._types, what=self.cls.__qualname__)
            if arguments is None:
                return text
            nested = codec.encode(arguments, method.signature.types, what=what)
            separator = "," if inputs else ""
            return f'{text[:-1]}{separator}"{ARGUMENTS}":{nested}}}'

        return Prepared(self.kind, name, what, encode, method.result_type, method.options, call)

    def options_of(self, method: str | None) -> Mapping[str, Any]:
        return self._method(method or "").options

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:
        found = self._method(method or "")
        what = f"{self.cls.__qualname__}.{found.name}"
        types = {**self._types, ARGUMENTS: dict[str, Any]} if found.takes_arguments else self._types
        inputs = codec.decode(args, types, what=what)
        arguments = inputs.pop(ARGUMENTS, {})
        instance = self._make(inputs, supply, what)
        function = functools.partial(getattr(self.cls, found.name), instance)
        if found.takes_arguments:
            read = codec.decode(codec.encode_plain(arguments, what=what), found.signature.types, what=what)
            function = found.signature.ready(function, read, supply, what)
        return Call(
            function, found.is_async, found.result_type, what, needed=getattr(instance, "needed", None)
        )

    def dependencies(self) -> frozenset[Any]:
        return self._dependencies

    @functools.cached_property
    def _dependencies(self) -> frozenset[Any]:
        of_methods = (
            wanted
            for value in vars(self.cls).values()
            if isinstance(value, Definition)
            for wanted in value.signature.supplied.values()
        )
        return frozenset((*self._supplied.values(), *of_methods))

    def result_type(self, method: str | None) -> Any:
        return self._method(method or "").result_type

    @functools.cached_property
    def _fields(self) -> tuple[_Field, ...]:
        """The fields of the class, with their types resolved: when first needed, so that they may refer forward."""
        hints = get_type_hints(self.cls, include_extras=True)
        if attrs.has(self.cls):
            return tuple(
                _Field(field.name, field.alias, hints.get(field.name, Any), field.default is attrs.NOTHING)
                for field in attrs.fields(self.cls)
                if field.init
            )
        if is_dataclass(self.cls):
            missing = inspect.Parameter.empty
            parameters = inspect.signature(self.cls).parameters
            return tuple(
                _Field(
                    field.name,
                    field.name,
                    hints.get(field.name, Any),
                    parameters[field.name].default is missing,
                )
                for field in dataclass_fields(self.cls)
                if field.init
            )
        return tuple(self._plain_fields())

    def _plain_fields(self) -> Iterable[_Field]:
        if self.cls.__init__ is object.__init__:
            return
        hints = get_type_hints(self.cls.__init__, include_extras=True)
        _, *parameters = inspect.signature(self.cls.__init__).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise InvalidDefinition(
                    f"{self.cls.__qualname__}.__init__ takes *{parameter.name}, so its inputs have no names to be stored under; "
                    "name them"
                )
            yield _Field(
                parameter.name,
                parameter.name,
                hints.get(parameter.name, Any),
                parameter.default is parameter.empty,
            )

    @functools.cached_property
    def _supplied(self) -> Mapping[str, Any]:
        found = {field.init_name: dependency(field.type) for field in self._fields}
        return {name: wanted for name, wanted in found.items() if wanted is not None}

    @functools.cached_property
    def _types(self) -> Mapping[str, Any]:
        return {field.name: field.type for field in self._fields if dependency(field.type) is None}

    def _inputs_of(self, instance: Later) -> dict[str, Any]:
        inputs = {}
        for name in self._types:
            try:
                inputs[name] = getattr(instance, name)
            except AttributeError as error:
                raise InvalidInput(
                    f"{self.cls.__qualname__} has no attribute {name!r}, though its __init__ takes it; "
                    "keep each parameter under its own name"
                ) from error
        return inputs

    def _make(self, inputs: Mapping[str, Any], supply: Mapping[Any, Any], what: str) -> Later:
        given = {name: supply[wanted] for name, wanted in self._supplied.items()}
        for field in self._fields:
            if field.name in inputs:
                given[field.init_name] = inputs[field.name]
            elif field.required and field.init_name not in given:
                raise UndecodableInput(
                    f"{what} needs the field {field.name!r}, which this job was stored without; "
                    "give it a default for jobs enqueued before it"
                )
        return self.cls(**given)

    def _method(self, name: str) -> _Method:
        if name not in self._methods:
            self._methods[name] = self._look_up(name)
        return self._methods[name]

    def _look_up(self, name: str) -> _Method:
        function = inspect.getattr_static(self.cls, name, None)
        if name.startswith("_") or name in (*_RESERVED, "needed") or function is None:
            raise InvalidDefinition(
                f"{self.cls.__qualname__} has no public method {name!r}{self._hint(name)}"
            )
        if isinstance(function, Definition):
            options = {**self.cls.__asyncjobs_options__, **function.options}
            signature, hints = function.signature, function.signature.hints
            return _Method(name, function.is_async, True, signature, options, return_type(hints))
        if not inspect.isfunction(function):
            raise InvalidDefinition(
                f"{self.cls.__qualname__}.{name} is not a method of its objects{self._hint(name)}"
            )
        signature = Signature(function, skip_self=True)
        try:
            signature.inputs((), {}, name)
        except InvalidInput as error:
            raise InvalidDefinition(
                f"{self.cls.__qualname__}.{name} takes arguments, and `later` passes none; decorate it with @job and write "
                f"`await obj.{name}.later(…)`"
            ) from error
        return _Method(
            name,
            is_async(function),
            False,
            signature,
            self.cls.__asyncjobs_options__,
            return_type(signature.hints),
        )

    def _hint(self, name: str) -> str:
        methods = [
            each
            for each, value in inspect.getmembers_static(self.cls)
            if not each.startswith("_")
            and each not in (*_RESERVED, "needed")
            and (inspect.isfunction(value) or isinstance(value, Definition))
        ]
        near = get_close_matches(name, methods, 1)
        return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(methods)) or 'none'}"
