"""`@job` on functions and methods: the function as it was, and its `later`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, Unpack, overload

import attrs

from asyncjobs._define.call import Call, is_async, is_generator
from asyncjobs._define.codec import Codec
from asyncjobs._define.enqueueing import Prepared, call_options, defined_options, enqueue
from asyncjobs._define.from_sync import enqueue_sync
from asyncjobs._define.handle import Handle
from asyncjobs._define.history import History, history_of
from asyncjobs._define.keys import Inputs, check_function_keys
from asyncjobs._define.registry import check_findable, kind_of, module_of, register
from asyncjobs._define.signature import STAND_INS, FunctionSignature
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._model.elsewhere import OF_A_JOB, SaysOurs
from asyncjobs._model.options import DEFAULTS, DefinitionOptions
from asyncjobs.errors import InvalidDefinition

P = ParamSpec("P")
Q = ParamSpec("Q")  #: the parameters of a method, without `self`
S = TypeVar("S")
T = TypeVar("T")  #: what calling the function gives: a coroutine, or the result
R = TypeVar("R")  #: the result

_LOOKS = ("__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__")
"""What makes `inspect` and web frameworks see a function in a callable object, so that a coroutine function stays one."""


class Definition(SaysOurs, Generic[P, T, R]):
    """A function or method decorated with `@job`. Calling it is calling the function, now."""

    _elsewhere = OF_A_JOB

    def __init__(self, function: Callable[P, T], options: DefinitionOptions) -> None:
        functools.update_wrapper(self, function)
        for look in _LOOKS:
            setattr(self, look, getattr(function, look, None))
        self.function = function
        self.options: Mapping[str, Any] = options
        self.is_async: bool = is_async(function)
        self.home: str = f"{module_of(function)}.{function.__qualname__}"
        self._owner, _, name = function.__qualname__.rpartition(".")
        self.name: str = name
        self.is_method: bool = bool(self._owner) and not self._owner.endswith("<locals>")
        self.kind: str = options.get("kind") or kind_of(function)
        self.signature: FunctionSignature = FunctionSignature(function, self.home, is_method=self.is_method)
        self.history: History = history_of(options, options)
        if not self.is_method:
            if "renamed" in options:
                raise InvalidDefinition(
                    f"{self.home} is a function, which has no methods; leave renamed= out"
                )
            check_function_keys(function, options, self.home)
            register(self)
        elif "kind" in options:
            raise InvalidDefinition(f"{self.home} is a method: its kind is its class', say kind= there")
        elif past := options.keys() & {"aliases", "renamed", "version", "upcasters"}:
            raise InvalidDefinition(
                f"{self.home} is a method: what its jobs were before is its class' to say, so say {min(past)}= there"
            )
        elif "placement" in options:
            raise InvalidDefinition(
                f"{self.home} is a method: its class says where its jobs run, say placement= there"
            )
        elif self.name.startswith("_"):
            raise InvalidDefinition(
                f"{self.home} is private, but a job names it from outside; give it a public name"
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.home}>"

    def __reduce__(self) -> str:
        return str(self.__qualname__)  # as functions are pickled: by name

    if TYPE_CHECKING:  # what `update_wrapper` brings
        __name__: str
        __qualname__: str

    def __set_name__(self, owner: type, name: str) -> None:
        if (
            self.is_method
            and self._owner == owner.__qualname__
            and not hasattr(owner, "__asyncjobs_prepare__")
        ):
            raise InvalidDefinition(
                f"@job decorates {owner.__qualname__}.{name}, but {owner.__qualname__} is no Later: its instances could not be "
                "made again where the job runs; derive it from asyncjobs.Later, or decorate a function"
            )

    @overload
    def __get__(self, instance: None, owner: type) -> Definition[P, T, R]: ...
    @overload
    def __get__(
        self: Definition[Concatenate[S, Q], T, R], instance: S, owner: type | None = None
    ) -> BoundJob[Q, T, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundJob(self, instance)

    async def later(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue this call: it runs when the transaction it joins has committed. Raises InvalidInput."""
        return await enqueue(self._prepare({}, args, kwargs))

    def later_sync(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`later` for code that cannot await: on a sync connection (`on=`), or in a thread, which waits for the commit."""
        return enqueue_sync(self._prepare({}, args, kwargs))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """This call with its inputs, for `jobs.enqueue_many`."""
        return self._prepare({}, args, kwargs)

    def set(self, **options: Unpack[LaterOptions]) -> Calling[P, R]:
        """The same job with these options for one call: `.set(priority=-10).later(42)`."""
        return Calling(self._prepare, call_options(options, f"{self.name}.set"))

    def _prepare(self, call: Mapping[str, Any], args: Any, kwargs: Any) -> Prepared[R]:
        if self.is_method:
            cls = self._owner.rpartition(".")[2]
            raise InvalidDefinition(
                f"{self.home} is a method, so it is enqueued from an object: await {cls}(…).{self.name}.later(…)"
            )
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
            chosen=lambda names: Inputs(what, self.signature, inputs).chosen(names),
            history=self.history,
        )

    # What the engine asks of a kind.

    def options_of(self, method: str | None) -> Mapping[str, Any]:  # noqa: ARG002 -- a function has one
        return self._merged

    @functools.cached_property
    def _merged(self) -> Mapping[str, Any]:
        return {**DEFAULTS, **self.options}

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:  # noqa: ARG002
        what = f"{self.name}()"
        inputs = codec.decode(args, self.signature.types, what=what)
        ready = self.signature.ready(self.function, inputs, supply, what)
        return Call(ready, self.is_async, self.signature.result_type, what)

    def try_out(self, method: str | None, args: str, codec: Codec) -> None:  # noqa: ARG002
        what = f"{self.name}()"
        inputs = codec.decode(args, self.signature.types, what=what)
        self.signature.ready(self.function, inputs, STAND_INS, what)

    def undeclared(self, method: str | None, args: str, codec: Codec, *, beside: str) -> list[str]:  # noqa: ARG002
        return sorted(codec.load(args, what=self.name).keys() - self.signature.types.keys())

    def dependencies(self, method: str | None = None) -> frozenset[Any]:  # noqa: ARG002
        return self._dependencies

    @functools.cached_property
    def _dependencies(self) -> frozenset[Any]:
        return frozenset(self.signature.supplied.values())

    def result_type(self, method: str | None) -> Any:  # noqa: ARG002
        return self.signature.result_type


class BoundJob(Generic[P, T, R]):
    """A `@job` method of one object; for the rest it is as a bound method is."""

    __slots__ = ("__self__", "_definition")
    __doc__ = property(lambda self: self._definition.__doc__)

    def __init__(self, definition: Definition[Any, T, R], instance: Any) -> None:
        self.__self__: Any = instance
        self._definition = definition

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._definition.function(self.__self__, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self._definition.home} of {self.__self__!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundJob):
            return NotImplemented
        return self._definition is other._definition and self.__self__ is other.__self__

    def __hash__(self) -> int:
        return hash((id(self._definition), id(self.__self__)))

    async def later(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue this call: the object is made again where it runs. Raises InvalidInput."""
        return await enqueue(self._prepare({}, args, kwargs))

    def later_sync(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`later` for code that cannot await: on a sync connection (`on=`), or in a thread, which waits for the commit."""
        return enqueue_sync(self._prepare({}, args, kwargs))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """This call with its inputs, for `jobs.enqueue_many`."""
        return self._prepare({}, args, kwargs)

    def set(self, **options: Unpack[LaterOptions]) -> Calling[P, R]:
        """The same job with these options for one call."""
        return Calling(self._prepare, call_options(options, f"{self._definition.name}.set"))

    def _prepare(self, call: Mapping[str, Any], args: Any, kwargs: Any) -> Prepared[R]:
        cls = type(self.__self__)
        if not hasattr(cls, "__asyncjobs_prepare__"):
            raise InvalidDefinition(
                f"{self._definition.home} stands in {cls.__qualname__}, which is no Later; call its `later` from the function"
            )
        prepared: Prepared[R] = cls.__asyncjobs_prepare__(self.__self__, self._definition, call, args, kwargs)
        return prepared

    @property
    def __func__(self) -> Callable[..., T]:
        return self._definition.function

    @property
    def __wrapped__(self) -> MethodType:
        return MethodType(self._definition.function, self.__self__)

    @property
    def __name__(self) -> str:
        return self._definition.name

    if not TYPE_CHECKING:  # a checker shall find the typo in `mailer.welcome.latr`

        def __getattr__(self, name: str) -> Any:
            if name in BoundJob.__slots__:  # being unpickled
                raise AttributeError(name)
            return getattr(self._definition.function, name)


@attrs.frozen
class Calling(Generic[P, R]):
    """A job with options for one call."""

    _prepare: Callable[[Mapping[str, Any], Any, Any], Prepared[R]]
    _call: Mapping[str, Any]

    async def later(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue this call, with the options that were set."""
        return await enqueue(self._prepare(self._call, args, kwargs))

    def later_sync(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`later` for code that cannot await: on a sync connection (`on=`), or in a thread, which waits for the commit."""
        return enqueue_sync(self._prepare(self._call, args, kwargs))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """This call with its inputs and options, for `jobs.enqueue_many`."""
        return self._prepare(self._call, args, kwargs)

    def set(self, **options: Unpack[LaterOptions]) -> Calling[P, R]:
        """The same with more options; what is said last wins."""
        return Calling(self._prepare, call_options({**self._call, **options}, "set"))


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
    decorator = _Decorator(defined_options(options, "@job"))
    return decorator if function is None else decorator(function)


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
        _check(function)
        return Definition(function, self._options)


def _check(function: Any) -> None:
    """Refuse what cannot be a job."""
    if isinstance(function, Definition | BoundJob):
        _refuse(f"{function!r} is a job already")
    if isinstance(function, type):
        _refuse(
            f"{function.__qualname__} is a class; derive it from asyncjobs.Later, and any of its methods may be a job"
        )
    if isinstance(function, staticmethod | classmethod):
        _refuse(
            f"{function.__qualname__} needs no object; decorate a function at the top of the module instead"
        )
    if inspect.ismethod(function):
        _refuse(f"{function.__qualname__} is bound to an object already; put @job where the class defines it")
    if isinstance(function, str):
        _refuse(
            f"@job({function!r}) says nothing of what that is; name the option, as in @job(queue={function!r})"
        )
    if not callable(function) or not hasattr(function, "__qualname__"):
        _refuse(
            f"@job decorates functions and methods, which have a name, and not {function!r}; write a `def` around it"
        )
    if is_generator(function):
        _refuse(f"{function.__qualname__} is a generator; a job returns once, so collect what it yields")


def _refuse(sentence: str) -> NoReturn:
    raise InvalidDefinition(sentence)
