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

    def dependencies(self) -> frozenset[Any]:
        """The types `supply` must hold for `bind`."""

    def result_type(self, method: str | None) -> Any:
        """What the call is declared to return."""


_kinds: dict[str, Kind] = {}


def register(definition: Kind) -> None:
    """Make *definition* known. The same class or function again replaces itself: slots classes are created twice."""
    known = _kinds.get(definition.kind)
    if known is not None and known.home != definition.home:
        raise InvalidDefinition(
            f"kind {definition.kind!r} is defined twice, as {known.home} and as {definition.home}; name one of them otherwise"
        )
    _kinds[definition.kind] = definition


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


def definitions() -> Iterator[Kind]:
    """Every definition, by kind."""
    return iter([_kinds[kind] for kind in sorted(_kinds)])


def kind_of(thing: Any) -> str:
    """`module:qualname`; a script's `__main__` counts as the module it would be imported as."""
    module = thing.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            module = spec.name.removesuffix(".__main__")
        elif getattr(main, "__file__", None):
            module = Path(main.__file__ or "").stem
    return f"{module}:{thing.__qualname__}"


def check_findable(kind: str, home: str) -> None:
    """Refuse to enqueue what no other process could find: something defined inside a function, without a name."""
    if "<locals>" in kind:
        raise InvalidDefinition(
            f"{home} is defined inside a function, so no other process can find it; "
            "move it to the top of a module, or give it a name with kind="
        )
