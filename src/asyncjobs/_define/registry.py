"""What this process can run: kind → definition. One per process, not per Jobs, as imports are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from asyncjobs._define.call import Call
from asyncjobs._define.codec import Codec
from asyncjobs.errors import InvalidDefinition, UnknownKind


class Kind(Protocol):
    """A definition, as the engine sees it."""

    kind: str
    home: str  #: module and qualified name, to tell a definition made twice from two of one name

    def options_of(self, method: str | None) -> Mapping[str, Any]:
        """The options of a job of this kind, merged."""

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:
        """Stored inputs made into a call. Raises UndecodableInput."""

    def dependencies(self, method: str | None = None) -> frozenset[Any]:
        """The types `supply` must hold for `bind`: of one method, or of all that may be jobs."""

    def result_type(self, method: str | None) -> Any:
        """What the call is declared to return."""


_kinds: dict[str, Kind] = {}
_standalone: set[str] = set()  #: those that are kept out of processes that serve requests


def register(definition: Kind) -> None:
    """Make *definition* known.

    The same class or function again replaces itself: slots classes are created twice, modules reloaded, and a script
    is imported once more by the server it starts. Raises InvalidDefinition for another one of the same kind.
    """
    known = _kinds.get(definition.kind)
    if known is not None and known.home != definition.home:
        raise InvalidDefinition(
            f"kind {definition.kind!r} is defined twice, as {known.home} and as {definition.home}; name one of them otherwise"
        )
    _kinds[definition.kind] = definition
    if definition.options_of(None).get("placement") == "standalone":
        _standalone.add(definition.kind)
    else:
        _standalone.discard(definition.kind)


def find(kind: str) -> Kind:
    """The definition of *kind*. Raises UnknownKind, naming the nearest."""
    if kind in _kinds:
        return _kinds[kind]
    near = get_close_matches(kind, _kinds, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UnknownKind(
        f"no job is defined as {kind!r} in this process; import the module that defines it{hint}"
    )


def find_by_ending(ending: str) -> Kind:
    """The one definition whose kind ends in *ending*, as people type it. Raises UnknownKind."""
    if ending in _kinds:
        return _kinds[ending]
    found = [kind for kind in _kinds if kind.endswith((f":{ending}", f".{ending}"))]
    if len(found) == 1:
        return _kinds[found[0]]
    if found:
        raise UnknownKind(f"{ending!r} could be any of {', '.join(sorted(found))}; write more of it")
    return find(ending)


def known_kinds() -> frozenset[str]:
    """Every kind this process can run."""
    return frozenset(_kinds)


def is_standalone(kind: str) -> bool:
    """Whether *kind* is kept out of processes that serve requests."""
    return kind in _standalone


def kinds_for_anywhere() -> frozenset[str]:
    """Every kind this process can run beside requests."""
    return frozenset(_kinds.keys() - _standalone)


def definitions() -> Iterator[Kind]:
    """Every definition, by kind."""
    return iter([_kinds[kind] for kind in sorted(_kinds)])


def kind_of(thing: Any) -> str:
    """`module:qualname`."""
    return f"{module_of(thing)}:{thing.__qualname__}"


def module_of(thing: Any) -> str:
    """The module of a class or function; a script counts as the module it would be imported as."""
    name = str(thing.__module__)
    if name not in (
        "__main__",
        "__mp_main__",
    ):  # the second: the script again, in a process that multiprocessing spawned
        return name
    main = sys.modules.get(name)
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else name


def check_findable(kind: str, home: str) -> None:
    """Refuse to enqueue what no other process could find: something defined inside a function, without a name."""
    if "<" in kind and kind.replace(":", ".") == home:
        raise InvalidDefinition(
            f"{home} is {'a lambda' if kind.endswith('<lambda>') else 'defined inside a function'}, so no other process can "
            "find it; define it at the top of a module, or give it a name with kind="
        )
