"""A `Later` class, as the engine sees it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from asyncjobs._define.call import Call, Hooks
from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import Definition
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._define.faithful import difference, shorten
from asyncjobs._define.history import NO_HISTORY, History
from asyncjobs._define.hooks import RUN_HOOKS, hooks_of
from asyncjobs._define.keys import ARGUMENTS, Inputs
from asyncjobs._define.methods import Method, Methods
from asyncjobs._define.registry import check_findable, module_of
from asyncjobs._define.signature import STAND_INS, ClassSignature, Signature
from asyncjobs._model.verbs import Verb
from asyncjobs.errors import InvalidDefinition, InvalidInput, UndecodableInput


class Service:
    """A `Later` class, as the engine sees it: inputs into an object, a method's name into a call."""

    def __init__(self, cls: type[Any], kind: str, history: History = NO_HISTORY) -> None:
        self.cls = cls
        self.kind = kind
        self.history: History = history
        self.home: str = f"{module_of(cls)}.{cls.__qualname__}"
        self._signature = ClassSignature(cls, self.home)
        self.methods = Methods(cls, self.home, history.renamed)
        self._dependencies: dict[str | None, frozenset[Any]] = {}
        self._hooks = hooks_of(cls)
        self._is_told = bool(self._hooks.keys() & RUN_HOOKS)

    def prepare(
        self,
        instance: Any,
        name: str,
        call: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Prepared[Any]:
        """A call of the method *name* on an object like *instance*."""
        check_findable(self.kind, self.home)
        method = self.methods.find(name)
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

        on_enqueue = instance.on_enqueue if "on_enqueue" in self._hooks else None
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
        method = self.methods.find(name)
        if method.takes_arguments and method.signature.needs:
            raise InvalidDefinition(
                f"{method.what} takes arguments ({', '.join(method.signature.needs)}), and `later` passes none; "
                f"write `await obj.{name}.later(…)`"
            )

    def options_of(self, method: str | None) -> Mapping[str, Any]:
        return self.cls.__asyncjobs_options__ if method is None else self.methods.stored(method).options

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:
        found = self.methods.stored(method or "")
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
        found = self.methods.stored(method or "")
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

    def undeclared(self, method: str | None, args: str, codec: Codec, *, beside: str) -> list[str]:
        found = self.methods.stored(method or "")
        stored = codec.load(args, what=found.what)
        if beside in self._signature.types:
            return sorted(stored.keys() - self._signature.types.keys() - {ARGUMENTS})
        arguments = stored.get(ARGUMENTS)
        return sorted(arguments.keys() - found.signature.types.keys()) if isinstance(arguments, dict) else []

    def dependencies(self, method: str | None = None) -> frozenset[Any]:
        if method not in self._dependencies:
            signatures = (
                self._known() if method is None else [self._signature, self.methods.stored(method).signature]
            )
            wanted = (wanted for each in signatures for wanted in each.supplied.values())
            self._dependencies[method] = frozenset(wanted)
        return self._dependencies[method]

    def result_type(self, method: str | None) -> Any:
        return self.methods.stored(method or "").signature.result_type

    def _arguments_of(
        self, method: Method, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return method.signature.inputs(args, kwargs, method.what)
        except InvalidInput as error:
            if args or kwargs:
                raise
            # Most likely named in `later`, which passes no arguments.
            raise InvalidInput(f"{error}; pass it with `await obj.{method.name}.later(…)`") from error

    def _inputs_of(self, instance: Any) -> dict[str, Any]:
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

    def object_of(self, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Any:
        """An object made from stored inputs. Raises UndecodableInput."""
        what = self.cls.__qualname__
        return self._make(codec.decode(args, self._signature.types, what=what), supply, what)

    def _make(self, inputs: Mapping[str, Any], supply: Mapping[Any, Any], what: str) -> Any:
        return self._signature.ready(self.cls, inputs, supply, what)()

    def _check_made_again(self, instance: Any, inputs: Mapping[str, Any]) -> None:
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

    def _known(self) -> list[Signature]:
        """What may be called, as far as it can be known: a class may be there to be derived from, a method to be called now.

        Only of methods decorated with `@job` is it sure that they shall be jobs.
        """
        known: list[Signature] = [self._signature]
        try:
            known[0].supplied  # noqa: B018 -- resolves its annotations
        except InvalidDefinition:
            return []
        for name, value in self.methods.public().items():
            try:
                method = self.methods.find(name)
                method.signature.supplied  # noqa: B018
            except InvalidDefinition:
                if isinstance(value, Definition):
                    raise
            else:
                known.append(method.signature)
        return known
