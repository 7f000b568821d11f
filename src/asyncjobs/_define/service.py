"""`Later`: any service object, now or later. Its fields are the stored inputs; any of its methods may be the job."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, Unpack, overload

import attrs

from asyncjobs._define.call import Call, Hooks, is_async, is_generator
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import BoundJob, Definition
from asyncjobs._define.enqueueing import Prepared, call_options, defined_options, enqueue, enqueue_many
from asyncjobs._define.faithful import difference, is_entity, shorten
from asyncjobs._define.from_sync import enqueue_sync
from asyncjobs._define.handle import Handle
from asyncjobs._define.history import NO_HISTORY, History, history_of
from asyncjobs._define.hooks import HOOKS, RUN_HOOKS, check_hooks, hooks_of
from asyncjobs._define.keys import ARGUMENTS, Inputs, check_class_keys
from asyncjobs._define.registry import check_findable, kind_of, module_of, register
from asyncjobs._define.signature import (
    STAND_INS,
    ClassSignature,
    FunctionSignature,
    Signature,
    method_signature,
    parameters,
)
from asyncjobs._define.twins import point_super_at
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._model.options import DEFAULTS, DefinitionOptions
from asyncjobs._model.verbs import Verb
from asyncjobs.errors import InvalidDefinition, InvalidInput, UndecodableInput

R = TypeVar("R")

_RESERVED = ("later", "later_many", "later_sync", "prepare")
_NO_JOBS = frozenset({*_RESERVED, "needed", *HOOKS})  #: asyncjobs calls them, or they call it


class Later:
    """Derive a service object from it, and `await obj.later("call")` runs the same object's method as a job.

    For attrs classes, dataclasses, and plain classes that keep their `__init__` parameters under their own names.
    Class keywords are the options of its jobs and are inherited: `class Export(Later, queue="exports"):`.
    """

    __slots__ = ()
    __asyncjobs_options__: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **options: Unpack[DefinitionOptions]) -> None:
        super().__init_subclass__()
        # A slots class is made twice, the second time without keywords, from a copy of the first one's body.
        own = cls.__dict__.get("__asyncjobs_own__")
        if own is None:
            own = defined_options(options, f"class {cls.__qualname__}")
            cls.__asyncjobs_own__ = own  # type: ignore[attr-defined]
        if is_entity(cls):
            raise InvalidDefinition(
                f"{cls.__qualname__} is an entity, and one that is made again where the job runs would be a new row; "
                "write a class that holds its id, and load it in the job"
            )
        _check_names(cls)
        point_super_at(cls)
        cls.__asyncjobs_options__ = {**DEFAULTS, **_options_of(cls)}
        jobs = {name: each.options for name, each in cls.__dict__.items() if isinstance(each, Definition)}
        check_class_keys(cls, cls.__asyncjobs_options__, jobs)
        service = Service(cls, own.get("kind") or kind_of(cls), history_of(own, cls.__asyncjobs_options__))
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
    async def later(self, call: Any = None, /, **options: Any) -> Handle[Any]:
        """Enqueue a method of this object, by name or bound: `later("call")`, `later(self.call)`.

        It runs when the transaction it joins has committed (`on=`, or the ambient `jobs.on(…)`), else it is committed
        here. Raises InvalidInput, InvalidOption and InvalidDefinition in the caller, at once.
        """
        if not isinstance(self, Later):
            raise InvalidDefinition('`later` is a method of the objects: MyClass(…).later("call")')
        return await enqueue(_prepare(self, call, call_options(options, "later")))

    @overload
    def later_sync(self, call: str, /, **options: Unpack[LaterOptions]) -> Handle[Any]: ...
    @overload
    def later_sync(
        self, call: Callable[[], Coroutine[Any, Any, R]], /, **options: Unpack[LaterOptions]
    ) -> Handle[R]: ...
    @overload
    def later_sync(self, call: Callable[[], R], /, **options: Unpack[LaterOptions]) -> Handle[R]: ...
    def later_sync(self, call: Any = None, /, **options: Any) -> Handle[Any]:
        """`later` for code that cannot await: on a sync connection (`on=`), or in a thread, which waits for the commit.

        Raises what `later` raises, and MisusedJobs on the event loop's own thread without `on=`.
        """
        if not isinstance(self, Later):
            raise InvalidDefinition('`later_sync` is a method of the objects: MyClass(…).later_sync("call")')
        return enqueue_sync(_prepare(self, call, call_options(options, "later_sync")))

    @overload
    def prepare(self, call: str, /, **options: Unpack[LaterOptions]) -> Prepared[Any]: ...
    @overload
    def prepare(
        self, call: Callable[[], Coroutine[Any, Any, R]], /, **options: Unpack[LaterOptions]
    ) -> Prepared[R]: ...
    @overload
    def prepare(self, call: Callable[[], R], /, **options: Unpack[LaterOptions]) -> Prepared[R]: ...
    def prepare(self, call: Any, /, **options: Any) -> Prepared[Any]:
        """The call with its inputs, for `jobs.enqueue_many`."""
        return _prepare(self, call, call_options(options, "prepare"))

    @classmethod
    async def later_many(
        cls, objects: Iterable[Later], call: str, /, **options: Unpack[LaterOptions]
    ) -> list[Handle[Any]]:
        """Enqueue the method named *call* of many objects in one statement, all or none; handles in their order."""
        checked = call_options(options, "later_many")
        prepared = [_prepare(each, call, checked) for each in objects]
        return await enqueue_many(prepared, options.get("jobs"), options.get("on"))

    def __asyncjobs_prepare__(
        self, job: Definition[Any, Any, R], call: Mapping[str, Any], args: Any, kwargs: Any
    ) -> Prepared[R]:
        return _service(self).prepare(self, _name_of(self, BoundJob(job, self)), call, args, kwargs)


def _check_names(cls: type[Later]) -> None:
    """Refuse a name in *cls* that would hide what asyncjobs needs there."""
    init = cls.__dict__.get("__init__")
    kept = {each.name for each in parameters(init, is_method=True)} if inspect.isfunction(init) else set()
    for each in cls.__mro__:
        if each in (Later, object):
            continue
        written = {*each.__dict__, *inspect.get_annotations(each), *kept}
        for name in _RESERVED:
            if name in written:
                raise InvalidDefinition(
                    f"{each.__qualname__}.{name} would hide the {name} of asyncjobs.Later; give it another name"
                )
        check_hooks(each, {name: each.__dict__.get(name) for name in HOOKS if name in written})
        needed = each.__dict__.get("needed")
        if "needed" in written and not (inspect.isfunction(needed) and _asks_nothing(needed)):
            raise InvalidDefinition(
                f"{each.__qualname__}.needed is asked before the job runs whether there is still something to do; "
                "make it a method without arguments that returns a bool, or name it otherwise"
            )
    for name, value in cls.__dict__.items():
        if isinstance(value, staticmethod | classmethod) and isinstance(value.__func__, Definition):
            raise InvalidDefinition(
                f"{cls.__qualname__}.{name} needs no object; decorate a function at the top of the module instead"
            )


def _asks_nothing(function: Any) -> bool:
    required = [each for each in parameters(function, is_method=True) if each.default is each.empty]
    return not is_generator(function) and all(
        each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in required
    )


def _options_of(cls: type) -> dict[str, Any]:
    """What *cls* and its bases say, the nearest last. A kind is nobody's but its own class'."""
    return {
        word: value
        for each in reversed(cls.__mro__)
        for word, value in each.__dict__.get("__asyncjobs_own__", {}).items()
        if word != "kind"
    }


def _prepare(instance: Later, call: Any, options: Mapping[str, Any]) -> Prepared[Any]:
    service, name = _service(instance), _name_of(instance, call)
    service.check_takes_nothing(name)
    return service.prepare(instance, name, options, (), {})


def _service(instance: Any) -> Service:
    service: Service | None = getattr(type(instance), "__asyncjobs_service__", None)
    if service is None:
        raise InvalidDefinition(f"{shorten(instance)} is no object of a class derived from asyncjobs.Later")
    return service


def _name_of(instance: Later, call: Any) -> str:
    """The method meant: its name, or the method bound to this very object."""
    if isinstance(call, str):
        return call
    if inspect.iscoroutine(call):
        call.close()
        raise InvalidDefinition(
            f"{call.__qualname__}() was called already; `later` takes the method itself, without parentheses"
        )
    if not (inspect.ismethod(call) or isinstance(call, BoundJob)):
        raise InvalidDefinition(
            f'later takes a method of the object, by name or bound, as in later("call") or later(obj.call), not {shorten(call)}'
        )
    name = str(call.__name__)
    if call.__self__ is not instance:
        raise InvalidDefinition(
            f"{name} is bound to {shorten(call.__self__)}, not to the object whose `later` was called"
        )
    if call != getattr(instance, name, call):
        raise InvalidDefinition(
            f"the {name} given is not what {type(instance).__qualname__}.{name} is: a job runs the method that its class has "
            "under the name; call it from a method of your own"
        )
    return name


class NoSuchMethod(InvalidDefinition, AttributeError):
    """A name that no public method of the object has."""


class UnknownMethod(NoSuchMethod):
    """A stored job names a method that the class does not have in this process."""


@attrs.frozen
class _Method:
    name: str
    what: str  #: for messages
    function: Any
    is_async: bool
    takes_arguments: bool  #: `@job` methods; their arguments are stored beside the fields
    signature: FunctionSignature
    options: Mapping[str, Any]


class Service:
    """A `Later` class, as the engine sees it: inputs into an object, a method's name into a call."""

    def __init__(self, cls: type[Later], kind: str, history: History = NO_HISTORY) -> None:
        self.cls = cls
        self.kind = kind
        self.history: History = history
        self.home: str = f"{module_of(cls)}.{cls.__qualname__}"
        self._signature = ClassSignature(cls, self.home)
        self._methods: dict[str, _Method] = {}
        self._dependencies: dict[str | None, frozenset[Any]] = {}
        self._hooks = hooks_of(cls)
        self._is_told = bool(self._hooks.keys() & RUN_HOOKS)
        self._check_renamed()

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
        inputs = self._inputs_of(instance)
        arguments = self._arguments_of(method, args, kwargs) if method.takes_arguments else None

        def encode(codec: Codec) -> str:
            text = codec.encode(inputs, self._signature.types, what=self.cls.__qualname__)
            if self._signature.may_change_inputs:
                self._check_made_again(instance, inputs)
            if arguments is None:
                return text
            nested = codec.encode(arguments, method.signature.types, what=method.what)
            text = f'{text[:-1]}{"," if inputs else ""}"{ARGUMENTS}":{nested}}}'
            codec.check_size(text, what=method.what)
            return text

        def chosen(names: tuple[str, ...]) -> Mapping[str, Any]:
            taken = method.signature if method.takes_arguments else None
            return Inputs(method.what, taken, arguments or {}, self._signature, inputs, instance).chosen(
                names
            )

        on_enqueue = instance.on_enqueue if "on_enqueue" in self._hooks else None  # type: ignore[attr-defined]
        return Prepared(
            self.kind,
            name,
            method.what,
            encode,
            method.signature.result_type,
            method.options,
            call,
            chosen,
            on_enqueue,
            self.history,
        )

    def check_takes_nothing(self, name: str) -> None:
        """Refuse a `@job` method with arguments where none can be given."""
        method = self._method(name)
        if method.takes_arguments and method.signature.needs:
            raise InvalidDefinition(
                f"{method.what} takes arguments ({', '.join(method.signature.needs)}), and `later` passes none; "
                f"write `await obj.{name}.later(…)`"
            )

    def options_of(self, method: str | None) -> Mapping[str, Any]:
        return self.cls.__asyncjobs_options__ if method is None else self._stored_method(method).options

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:
        found = self._stored_method(method or "")
        stored = codec.load(args, what=found.what)
        inputs = codec.read(stored, self._signature.types, what=found.what)
        instance = self._make(inputs, supply, found.what)
        function = getattr(instance, found.name)
        arguments = {}
        if found.takes_arguments:
            function = functools.partial(found.function, instance)
            arguments = codec.read(stored.get(ARGUMENTS, {}), found.signature.types, what=found.what)
        ready = found.signature.ready(function, arguments, supply, found.what)
        needed = getattr(instance, "needed", None)
        hooks = Hooks(instance, self._hooks) if self._is_told else None
        return Call(ready, found.is_async, found.signature.result_type, found.what, needed, hooks)

    def try_out(self, method: str | None, args: str, codec: Codec) -> None:
        found = self._stored_method(method or "")
        stored = codec.load(args, what=found.what)
        inputs = codec.read(stored, self._signature.types, what=found.what)
        make = self._signature.ready(self.cls, inputs, STAND_INS, found.what)
        if found.takes_arguments:
            arguments = codec.read(stored.get(ARGUMENTS, {}), found.signature.types, what=found.what)
            found.signature.ready(found.function, arguments, STAND_INS, found.what)
        if self._signature.supplied:
            return
        try:
            make()
        except Verb:
            return  # it says what becomes of the job, when it runs
        except Exception as error:
            raised = f"{found.what}: making {self.cls.__qualname__} of the stored inputs raised {type(error).__name__}"
            raise UndecodableInput(f"{raised}: {error}", reason="cannot be made", discreet=raised) from error

    def dependencies(self, method: str | None = None) -> frozenset[Any]:
        if method not in self._dependencies:
            signatures = (
                self._known() if method is None else [self._signature, self._stored_method(method).signature]
            )
            wanted = (wanted for each in signatures for wanted in each.supplied.values())
            self._dependencies[method] = frozenset(wanted)
        return self._dependencies[method]

    def result_type(self, method: str | None) -> Any:
        return self._stored_method(method or "").signature.result_type

    def _arguments_of(
        self, method: _Method, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return method.signature.inputs(args, kwargs, method.what)
        except InvalidInput as error:
            if args or kwargs:
                raise
            # Most likely named in `later`, which passes no arguments.
            raise InvalidInput(f"{error}; pass it with `await obj.{method.name}.later(…)`") from error

    def _inputs_of(self, instance: Later) -> dict[str, Any]:
        inputs = {}
        for name in self._signature.types:
            attribute = self._signature.taken[name].attribute
            try:
                inputs[name] = getattr(instance, attribute)
            except AttributeError as error:
                raise InvalidInput(
                    f"{self.cls.__qualname__} has no attribute {attribute!r}, though its __init__ takes it; "
                    "keep each parameter under its own name"
                ) from error
        return inputs

    def object_of(self, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Later:
        """An object made from stored inputs. Raises UndecodableInput."""
        what = self.cls.__qualname__
        return self._make(codec.decode(args, self._signature.types, what=what), supply, what)

    def _make(self, inputs: Mapping[str, Any], supply: Mapping[Any, Any], what: str) -> Later:
        return self._signature.ready(self.cls, inputs, supply, what)()

    def _check_made_again(self, instance: Later, inputs: Mapping[str, Any]) -> None:
        """Refuse inputs that `__init__` or a converter turns into others once more, here and not where the job runs."""
        name = self.cls.__qualname__
        taken = self._signature.taken
        try:
            supply = {
                wanted: getattr(instance, taken[each].attribute)
                for each, wanted in self._signature.supplied.items()
            }
        except AttributeError:  # what is supplied need not be kept
            return
        try:
            again = self._make(inputs, supply, name)
            found = {
                each: difference(kept, getattr(again, taken[each].attribute)) for each, kept in inputs.items()
            }
        except Exception as error:
            raise InvalidInput(
                f"{name} cannot be made again from what it keeps: {type(error).__name__}: {error}; "
                "a job is stored by its inputs, so keep them as they were given"
            ) from error
        for each, trouble in found.items():
            if trouble is not None:
                raise InvalidInput(
                    f"{name}.{taken[each].attribute} is {shorten(inputs[each])}, and would be something else once the object is "
                    "made again from that; a job is stored by its inputs, so keep them as they were given"
                )

    def _stored_method(self, name: str) -> _Method:
        """The method that a stored job names, maybe by a former name."""
        known = self._methods.get(name)
        if known is not None:
            return known
        try:
            return self._method(self.history.renamed.get(name, name))
        except NoSuchMethod as error:
            raise UnknownMethod(str(error)) from None

    def _check_renamed(self) -> None:
        for former, today in self.history.renamed.items():
            if not callable(getattr(self.cls, today, None)):
                raise InvalidDefinition(
                    f"{self.cls.__qualname__} has no method {today!r}, though it says that {former!r} is called so today (renamed=)"
                    f"{self._hint(today)}"
                )
            if hasattr(self.cls, former):
                raise InvalidDefinition(
                    f"{self.cls.__qualname__} has {former!r}, though it says that this is called {today!r} today (renamed=); "
                    "a stored job could mean either, so take it out of one"
                )

    def _method(self, name: str) -> _Method:
        if name not in self._methods:
            self._methods[name] = self._look_up(name)
        return self._methods[name]

    def _look_up(self, name: str) -> _Method:
        function = inspect.getattr_static(self.cls, name, None)
        what = f"{self.cls.__qualname__}.{name}"
        options = self.cls.__asyncjobs_options__
        if isinstance(function, Definition):
            signature = method_signature(self.cls, name, function.function, function.home)
            merged = {**options, **function.options}
            return _Method(name, what, function.function, function.is_async, True, signature, merged)
        if function is None or name in _NO_JOBS:
            raise NoSuchMethod(f"{self.cls.__qualname__} has no public method {name!r}{self._hint(name)}")
        if name.startswith("_"):
            raise InvalidDefinition(
                f"{what} is private, but a job names it from outside; give it a public name"
            )
        if not inspect.isfunction(function):
            raise InvalidDefinition(f"{what} is not a method of its objects{self._hint(name)}")
        if is_generator(function):
            raise InvalidDefinition(f"{what} is a generator; a job returns once, so collect what it yields")
        signature = method_signature(self.cls, name, function, f"{self.home}.{name}")
        if signature.needs:
            raise InvalidDefinition(
                f"{what} takes arguments ({', '.join(signature.needs)}), and `later` passes none; decorate it with @job and "
                f"write `await obj.{name}.later(…)`"
            )
        return _Method(name, what, function, is_async(function), False, signature, options)

    def _public_methods(self) -> Mapping[str, Any]:
        return {
            name: value
            for name, value in inspect.getmembers_static(self.cls)
            if not name.startswith("_")
            and name not in _NO_JOBS
            and (inspect.isfunction(value) or isinstance(value, Definition))
        }

    def _hint(self, name: str) -> str:
        methods = sorted(self._public_methods())
        near = get_close_matches(name, methods, 1)
        return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(methods) or 'none'}"

    def _known(self) -> list[Signature]:
        """What may be called, as far as it can be known: a class may be there to be derived from, a method to be called now.

        Only of methods decorated with `@job` is it sure that they shall be jobs.
        """
        known: list[Signature] = [self._signature]
        try:
            known[0].supplied  # noqa: B018 -- resolves its annotations
        except InvalidDefinition:
            return []
        for name, value in self._public_methods().items():
            try:
                method = self._method(name)
                method.signature.supplied  # noqa: B018
            except InvalidDefinition:
                if isinstance(value, Definition):
                    raise
            else:
                known.append(method.signature)
        return known
