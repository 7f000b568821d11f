"""`Later`: any service object, now or later. Its fields are the stored inputs; any of its methods may be the job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, Unpack, overload

from asyncjobs._define.call import is_generator
from asyncjobs._define.definition import BoundJob, Definition
from asyncjobs._define.enqueueing import Prepared, call_options, defined_options, enqueue, enqueue_many
from asyncjobs._define.faithful import is_entity, shorten
from asyncjobs._define.from_sync import enqueue_sync
from asyncjobs._define.handle import Handle
from asyncjobs._define.history import history_of
from asyncjobs._define.hooks import HOOKS, check_hooks
from asyncjobs._define.keys import check_class_keys
from asyncjobs._define.methods import RESERVED
from asyncjobs._define.registry import kind_of, register
from asyncjobs._define.service import Service
from asyncjobs._define.signature import parameters
from asyncjobs._define.twins import point_super_at
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._model.options import DEFAULTS, DefinitionOptions
from asyncjobs.errors import InvalidDefinition

R = TypeVar("R")


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
        for name in RESERVED:
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
