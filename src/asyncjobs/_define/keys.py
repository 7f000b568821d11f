"""The key of a job: what makes two jobs alike for `unique=`, `lock=`, `fair=` and `rate=`.

Made from what is stored, not from what Python holds: two processes that encode equal inputs come to the same key. What was
left out counts as its default, so that `send.later(42)` and `send.later(42, locale="en")` are alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any, NoReturn

import attrs
import orjson

from asyncjobs._define.faithful import shorten
from asyncjobs._define.signature import ClassSignature, FunctionSignature, Signature, parameters
from asyncjobs._define.storable import STRICT, storable
from asyncjobs._model.keys import KeyRule, key_words
from asyncjobs.errors import InvalidDefinition, InvalidInput

ARGUMENTS = "()"
"""Where the arguments of a `@job` method are stored, beside the fields: no field can have this name."""

Chosen = Callable[[tuple[str, ...]], Mapping[str, Any]]
"""From names to JSON-native values of one call; no names: all its inputs."""


def make_key(rule: KeyRule, chosen: Chosen, namespace: str) -> str:
    """The key of a job: a hash of its namespace (*namespace*, unless the rule has one) and what was chosen of it.

    32 hexadecimal digits, the same in every process. Raises InvalidInput and InvalidDefinition.
    """
    content: Any = rule.key if rule.key is not None else chosen(rule.names)
    space = namespace if rule.namespace is None else rule.namespace
    return hashed([space, content])


def hashed(content: Any) -> str:
    """A key of JSON-native *content*: 32 hexadecimal digits, the same in every process."""
    text = orjson.dumps(content, option=STRICT | orjson.OPT_SORT_KEYS)
    return blake2b(text, digest_size=16).hexdigest()


@attrs.frozen
class Inputs:
    """What one call brings along, for its keys: an object's fields, and what its method or a function takes."""

    what: str  #: for messages
    taken: FunctionSignature | None = None  #: what a function, or a `@job` method, takes …
    arguments: Mapping[str, Any] = attrs.field(factory=dict)  #: … and was given
    kept: ClassSignature | None = None  #: what a class is made from …
    fields: Mapping[str, Any] = attrs.field(factory=dict)  #: … and the object keeps
    instance: Any = None

    def chosen(self, names: tuple[str, ...]) -> Mapping[str, Any]:
        """What *names* stand for, as JSON-native data; without names, all inputs."""
        if names:
            return {name: self._find(name) for name in names}
        everything: dict[str, Any] = {}
        if self.kept is not None:
            everything.update((name, _write(self.kept, name, value)) for name, value in self.fields.items())
        if self.taken is not None:
            arguments = dict(_with_defaults(self.taken, self.arguments))
            everything.update(arguments if self.kept is None else {ARGUMENTS: arguments})
        return everything

    def _find(self, name: str) -> Any:
        for signature in (self.taken, self.kept):
            if signature is not None and name in signature.supplied:
                raise InvalidDefinition(
                    f"{self.what} cannot be known by {name!r}, a dependency, which is supplied anew wherever the job runs; "
                    "name an input"
                )
        if self.taken is not None and name in self.taken.types:
            arguments = dict(_with_defaults(self.taken, self.arguments))
            if name in arguments:
                return arguments[name]
            raise InvalidInput(
                f"{self.what} cannot be known by {name!r}, whose default cannot be stored; pass a value"
            )
        if self.kept is not None and name in self.fields:
            return _write(self.kept, name, self.fields[name])
        if self.instance is None or not hasattr(self.instance, name):
            _unknown(name, self._names(), self.what)
        return self._computed(name)

    def _computed(self, name: str) -> Any:
        value = getattr(self.instance, name)
        if callable(value):
            value = value()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise InvalidDefinition(
                f"{self.what} cannot be known by {name!r}, which is async; keys are computed before anything is stored, so make it "
                "a plain method or property"
            )
        try:
            written = storable(type(value)).write(value)
            orjson.dumps(written, option=STRICT)
        except Exception as error:
            raise InvalidInput(
                f"{self.what} cannot be known by {name!r}, which is {shorten(value)}: {error}; return plain data"
            ) from error
        return written

    def _names(self) -> set[str]:
        names: set[str] = set()
        if self.taken is not None:
            names.update(self.taken.types)
        if self.instance is not None:
            names.update(self.fields, (each for each in dir(self.instance) if not each.startswith("_")))
        return names


def _write(signature: Signature, name: str, value: Any) -> Any:
    return storable(signature.types[name]).write(value)


def _with_defaults(signature: FunctionSignature, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments of a call as JSON-native data, what was left out as its default, unless that cannot be stored."""
    for name in signature.types:
        parameter = signature.taken[name].parameter
        if name in given:
            yield name, _write(signature, name, given[name])
        elif parameter.kind is parameter.VAR_POSITIONAL:
            yield name, []
        elif parameter.kind is parameter.VAR_KEYWORD:
            yield name, {}
        else:
            try:
                written = _write(signature, name, parameter.default)
                orjson.dumps(written, option=STRICT)
            except Exception:  # noqa: S112 -- a marker such as `object()`; given, it would be refused
                continue
            yield name, written


# Where they are defined.


def check_function_keys(function: Any, options: Mapping[str, Any], home: str) -> None:
    """Refuse names in the `unique=`, `lock=`, `fair=` or `rate=` of a `@job` function that it does not take."""
    words = key_words(options)
    if words:
        taken = {each.name for each in parameters(function, is_method=False)}
        for word, names in words:
            _check(word, names, taken, home)


def check_class_keys(cls: type, options: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse names in the `unique=`, `lock=`, `fair=` or `rate=` of a class, or of its `@job` *methods*, that its objects cannot have.

    What a hand-written `__init__` or `__getattr__` may bring cannot be known here, and is found out at the first use.
    """
    given: list[tuple[str, Mapping[str, Any]]] = [("", options), *methods.items()]
    if not any(key_words(each) for _, each in given) or hasattr(cls, "__getattr__"):
        return
    if any(
        inspect.isfunction(each.__dict__.get("__init__")) for each in cls.__mro__ if not _is_generated(each)
    ):
        return
    known = set(_attributes(cls))
    functions = {
        name: getattr(inspect.getattr_static(cls, name, None), "function", None) for name in dir(cls)
    }
    arguments = {
        name: {each.name for each in parameters(function, is_method=True)}
        for name, function in functions.items()
        if function is not None
    }
    for name, said in given:
        own = arguments.get(name, set()) if name else {each for some in arguments.values() for each in some}
        for word, names in key_words(said):
            _check(word, names, known | own, cls.__qualname__ + (f".{name}" if name else ""))


def _is_generated(cls: type) -> bool:
    """The `__init__` of a slots class that attrs makes the second time, and of bases that are done."""
    return "__attrs_attrs__" in cls.__dict__ or "__dataclass_fields__" in cls.__dict__


def _attributes(cls: type) -> Iterator[str]:
    for each in cls.__mro__:
        if each is object:
            continue
        for name in (*each.__dict__, *inspect.get_annotations(each)):
            yield name
            if name.startswith("_") and not name.startswith("__"):
                yield name.lstrip("_")  # as attrs names the parameter


def _check(word: str, names: Iterable[str], known: set[str], home: str) -> None:
    for name in names:
        if name not in known:
            _unknown(name, known, f"{home} ({word}=)")


def _unknown(name: str, known: set[str], what: str) -> NoReturn:
    public = sorted(each for each in known if not each.startswith("_"))
    near = get_close_matches(name, public, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(public[:20]) or 'none'}"
    if not name.isidentifier():
        hint = "these are names; a key that is there already is Unique(key=…) or Lock(key=…)"
    raise InvalidDefinition(
        f"{what} cannot be known by {name!r}, which is no input or attribute of it; {hint}"
    )
