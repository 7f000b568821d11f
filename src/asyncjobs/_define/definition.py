"""`@job` on functions and methods: the function as it was, and its `later`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, get_type_hints, overload

import attrs

from asyncjobs._define.call import Call, is_async, return_type
from asyncjobs._define.codec import Codec
from asyncjobs._define.dependency import dependency
from asyncjobs._define.enqueueing import Prepared, call_options, enqueue
from asyncjobs._define.handle import Handle
from asyncjobs._define.registry import check_findable, kind_of, register
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._model.options import DEFAULTS, DefinitionOptions, definition_options
from asyncjobs.errors import InvalidDefinition, InvalidInput, UndecodableInput

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")  #: what calling the function gives: a coroutine, or the result
R = TypeVar("R")  #: the result


class Signature:
    """The parameters of a function: which are inputs, of which types, and which are supplied."""

    def __init__(self, function: Callable[..., Any], *, skip_self: bool) -> None:
        self._function = function
        self._skip_self = skip_self

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        signature = inspect.signature(self._function)
        if self._skip_self:
            _, *rest = signature.parameters.values()
            signature = signature.replace(parameters=rest)
        return signature

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        return get_type_hints(self._function, include_extras=True)

    @functools.cached_property
    def supplied(self) -> Mapping[str, Any]:
        """The parameters that are dependencies."""
        found = {name: dependency(self.hints.get(name)) for name in self._signature.parameters}
        return {name: wanted for name, wanted in found.items() if wanted is not None}

    @functools.cached_property
    def types(self) -> Mapping[str, Any]:
        """The parameters that are inputs."""
        kinds = inspect.Parameter
        types: dict[str, Any] = {}
        for name, parameter in self._signature.parameters.items():
            if name in self.supplied:
                continue
            declared = self.hints.get(name, Any)
            if parameter.kind is kinds.VAR_POSITIONAL:
                declared = tuple[declared, ...]
            elif parameter.kind is kinds.VAR_KEYWORD:
                declared = dict[str, declared]  # type: ignore[valid-type]
            types[name] = declared
        return types

    @functools.cached_property
    def _plain(self) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]] | None:
        """Positional names, all names, required names, where every parameter is plain: `inspect` takes 6 µs to bind."""
        kinds = inspect.Parameter
        parameters = self._signature.parameters.values()
        if self.supplied or any(p.kind not in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY) for p in parameters):
            return None
        positional = tuple(p.name for p in parameters if p.kind is kinds.POSITIONAL_OR_KEYWORD)
        required = frozenset(p.name for p in parameters if p.default is p.empty)
        return positional, frozenset(self._signature.parameters), required

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
            bound = self._signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise InvalidInput(f"{what} does not take these arguments: {error}") from error
        for name, parameter in self._signature.parameters.items():
            optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if (
                name not in bound.arguments
                and parameter.default is parameter.empty
                and not optional
                and name not in self.supplied
            ):
                raise InvalidInput(f"{what} needs a value for {name!r}")
        return {name: value for name, value in bound.arguments.items() if name not in self.supplied}

    def ready(
        self, function: Callable[..., Any], inputs: dict[str, Any], supply: Mapping[Any, Any], what: str
    ) -> Callable[[], Any]:
        """*function* with its inputs and what is supplied. Raises UndecodableInput when one is missing."""
        if self._plain is not None and self._plain[2] <= inputs.keys():
            return functools.partial(function, **inputs)
        bound = self._arguments(inputs, supply, what)
        return functools.partial(function, *bound.args, **bound.kwargs)

    def _arguments(
        self, inputs: Mapping[str, Any], supply: Mapping[Any, Any], what: str
    ) -> inspect.BoundArguments:
        given = dict(inputs)
        for name, wanted in self.supplied.items():
            given[name] = supply[wanted]
        bound = inspect.BoundArguments(self._signature, {})  # type: ignore[arg-type]
        for name, parameter in self._signature.parameters.items():
            if name in given:
                bound.arguments[name] = given[name]
            elif parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                raise UndecodableInput(
                    f"{what} needs {name!r}, which this job was stored without; give it a default for jobs enqueued before it"
                )
        bound.apply_defaults()
        return bound


class Definition(Generic[P, T, R]):
    """A function or method decorated with `@job`. Calling it is calling the function, now."""

    def __init__(self, function: Callable[P, T], options: DefinitionOptions) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options: Mapping[str, Any] = options
        self.is_async = is_async(function)
        self.home = f"{function.__module__}.{function.__qualname__}"
        owner, _, self.name = function.__qualname__.rpartition(".")
        self.is_method = bool(owner) and not owner.endswith("<locals>")
        self.signature = Signature(function, skip_self=self.is_method)
        self.kind = options.get("kind") or kind_of(function)
        # What makes `inspect` see a function in a callable object, so that a coroutine function stays one.
        self.__code__ = getattr(function, "__code__", None)
        self.__defaults__ = getattr(function, "__defaults__", None)
        self.__kwdefaults__ = getattr(function, "__kwdefaults__", None)
        self.__closure__ = getattr(
            function, "__closure__", None
        )  # attrs mends `super()` of slots classes here
        if self.is_method:
            if "kind" in options:
                raise InvalidDefinition(f"{self.home} is a method: its kind is its class', say kind= there")
        else:
            register(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.home}>"

    def __set_name__(self, owner: type, name: str) -> None:
        if not hasattr(owner, "__asyncjobs_options__"):
            raise InvalidDefinition(
                f"@job decorates {owner.__qualname__}.{name}, but {owner.__qualname__} is no Later: its instances could not be "
                "made again where the job runs; derive it from asyncjobs.Later, or decorate a function"
            )
        _point_super_at(self.function, owner)

    @overload
    def __get__(self, instance: None, owner: type) -> Definition[P, T, R]: ...
    @overload
    def __get__(
        self: Definition[Concatenate[S, P], T, R], instance: S, owner: type | None = None
    ) -> BoundJob[P, T, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundJob(self, instance)

    async def later(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue this call: it runs when the transaction it joins has committed. Raises InvalidInput."""
        return await enqueue(self._prepare({}, args, kwargs))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """This call with its inputs, for `jobs.enqueue_many`."""
        return self._prepare({}, args, kwargs)

    def set(self, **options: Unpack[LaterOptions]) -> Calling[P, R]:
        """The same job with these options for one call: `.set(priority=-10).later(42)`."""
        call = call_options(options, f"{self.name}.set")
        return Calling(functools.partial(self._prepare, call))

    def _prepare(self, call: Mapping[str, Any], args: Any, kwargs: Any) -> Prepared[R]:
        if self.is_method:
            raise InvalidDefinition(f"{self.home} is a method; enqueue it from an instance")
        check_findable(self.kind, self.home)
        what = f"{self.name}()"
        inputs = self.signature.inputs(args, kwargs, what)
        return Prepared(
            kind=self.kind,
            method=None,
            what=what,
            encode=lambda codec: codec.encode(inputs, self.signature.types, what=what),
            result_type=self.result_type(None),
            defined=self.options_of(None),
            call=call,
        )

    # What the engine asks of a kind.

    def options_of(self, method: str | None) -> Mapping[str, Any]:  # noqa: ARG002
        return self._merged

    @functools.cached_property
    def _merged(self) -> Mapping[str, Any]:
        return {**DEFAULTS, **self.options}

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:  # noqa: ARG002
        what = f"{self.name}()"
        inputs = codec.decode(args, self.signature.types, what=what)
        ready = self.signature.ready(self.function, inputs, supply, what)
        return Call(ready, self.is_async, self._result_type, what)

    def dependencies(self) -> frozenset[Any]:
        return self._dependencies

    @functools.cached_property
    def _dependencies(self) -> frozenset[Any]:
        return frozenset(self.signature.supplied.values())

    def result_type(self, method: str | None) -> Any:  # noqa: ARG002
        return self._result_type

    @functools.cached_property
    def _result_type(self) -> Any:
        return return_type(self.signature.hints)


@attrs.frozen
class BoundJob(Generic[P, T, R]):
    """A `@job` method of one instance."""

    definition: Definition[Any, T, R]
    instance: Any

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.definition.function(self.instance, *args, **kwargs)

    async def later(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue this call: the instance is made again where it runs. Raises InvalidInput."""
        return await enqueue(self._prepare({}, args, kwargs))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """This call with its inputs, for `jobs.enqueue_many`."""
        return self._prepare({}, args, kwargs)

    def set(self, **options: Unpack[LaterOptions]) -> Calling[P, R]:
        """The same job with these options for one call."""
        call = call_options(options, f"{self.definition.name}.set")
        return Calling(functools.partial(self._prepare, call))

    def _prepare(self, call: Mapping[str, Any], args: Any, kwargs: Any) -> Prepared[R]:
        prepared: Prepared[R] = type(self.instance).__asyncjobs_prepare__(
            self.instance, self.definition.name, call, args, kwargs
        )
        return prepared

    @property
    def __name__(self) -> str:
        return self.definition.name

    @property
    def __self__(self) -> Any:
        return self.instance

    @property
    def __func__(self) -> Any:
        return self.definition.function


@attrs.frozen
class Calling(Generic[P, R]):
    """A job with options for one call."""

    _prepare: Callable[[Any, Any], Prepared[R]]

    async def later(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue this call, with the options that were set."""
        return await enqueue(self._prepare(args, kwargs))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """This call with its inputs and options, for `jobs.enqueue_many`."""
        return self._prepare(args, kwargs)


def _point_super_at(function: Any, owner: type) -> None:
    """`super()` in a method of a slots class must mean the second class, which replaces the first."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held = cell.cell_contents
        except ValueError:  # still empty: the first class is being made
            continue
        if isinstance(held, type) and held is not owner and _is_twin(held, owner):
            cell.cell_contents = owner


def _is_twin(one: type, other: type) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


@overload
def job(function: Callable[P, Coroutine[Any, Any, R]], /) -> Definition[P, Coroutine[Any, Any, R], R]: ...
@overload
def job(function: Callable[P, R], /) -> Definition[P, R, R]: ...
@overload
def job(**options: Unpack[DefinitionOptions]) -> _Decorator: ...
def job(function: Any = None, /, **options: Any) -> Any:
    """Make a function, or a method of a `Later` class, a job. Calling it stays what it was; `later` enqueues it.

    Raises InvalidDefinition for what cannot be a job, InvalidOption for options that make no sense.
    """
    checked = definition_options(options, "@job")
    if function is None:
        return _Decorator(checked)
    return _Decorator(checked)(function)


@attrs.frozen
class _Decorator:
    _options: DefinitionOptions

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Definition[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Definition[P, R, R]: ...
    def __call__(self, function: Any, /) -> Any:
        if (
            isinstance(function, (staticmethod, classmethod))
            or not callable(function)
            or isinstance(function, type)
        ):
            raise InvalidDefinition(
                f"@job decorates functions and methods of Later classes, not {function!r}"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidDefinition(
                f"{function.__qualname__} is a generator; a job returns once, so collect what it yields"
            )
        return Definition(function, self._options)
