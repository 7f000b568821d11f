"""What this process can run: kind → definition. One per process, not per Jobs, as imports are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from asyncjobs._define.former import Former
from asyncjobs._define.kind import Kind
from asyncjobs._model.versions import name_and_version
from asyncjobs.errors import InvalidDefinition, UnknownKind

_kinds: dict[str, Kind] = {}  #: by each name under which jobs of theirs may be stored
_standalone: set[str] = set()  #: those that are kept out of processes that serve requests


def register(definition: Kind) -> None:
    """Make *definition* known, under its name and its former ones.

    The same class or function again replaces itself: slots classes are created twice, modules reloaded, and a script
    is imported once more by the server it starts. Raises InvalidDefinition for another one of the same kind.
    """
    for name in (definition.kind, *definition.history.aliases):
        _check_free(name, definition)
    known = _kinds.get(definition.kind)
    if known is not None:
        for name, _ in known.history.stored_names(known.kind):
            _kinds.pop(name, None)
            _standalone.discard(name)
    is_standalone = definition.options_of(None).get("placement") == "standalone"
    for name, version in definition.history.stored_names(definition.kind):
        is_todays = version == definition.history.version
        _kinds[name] = definition if is_todays else Former(definition, version)
        if is_standalone:
            _standalone.add(name)
        else:
            _standalone.discard(name)


def _check_free(name: str, definition: Kind) -> None:
    """Refuse a *name* that is another definition's, today's or former."""
    if name == definition.kind and name in definition.history.aliases:
        raise InvalidDefinition(f"{definition.home} is of kind {name!r} today; take it out of its aliases")
    known = _kinds.get(name)
    if known is None or known.home == definition.home:
        return
    if name == known.kind == definition.kind:
        raise InvalidDefinition(
            f"kind {name!r} is defined twice, as {known.home} and as {definition.home}; name one of them otherwise"
        )
    live, former = (known, definition) if known.kind == name else (definition, known)
    if name == live.kind:
        raise InvalidDefinition(
            f"{former.home} says that it was {name!r} before (aliases=), which is {live.home} today; a job stored under that name "
            "could be meant for either, so take it out of the aliases"
        )
    raise InvalidDefinition(
        f"{known.home} and {definition.home} both say that they were {name!r} before; take it out of the aliases of one"
    )


def find(kind: str) -> Kind:
    """What reads jobs that are stored as *kind*. Raises UnknownKind, naming the nearest."""
    if kind in _kinds:
        return _kinds[kind]
    if newer := newer_version(kind):
        raise UnknownKind(f"{kind!r} was stored by newer code: {newer}")
    near = nearest(kind)
    hint = f"; did you mean {near!r}?" if near else ""
    raise UnknownKind(
        f"no job is defined as {kind!r} in this process; import the module that defines it{hint}"
    )


def nearest(kind: str) -> str | None:
    """The kind, by today's name, that *kind* is most like, if it is like any."""
    near = get_close_matches(kind, _kinds, 1)
    return _kinds[near[0]].kind if near else None


def find_by_ending(ending: str) -> Kind:
    """The one definition whose kind ends in *ending*, as people type it. Raises UnknownKind."""
    if ending in _kinds:
        return _todays(_kinds[ending])
    found = [kind for kind in defined_kinds() if kind.endswith((f":{ending}", f".{ending}"))]
    if len(found) == 1:
        return _todays(_kinds[found[0]])
    if found:
        raise UnknownKind(f"{ending!r} could be any of {', '.join(sorted(found))}; write more of it")
    return find(ending)


def known_kinds() -> frozenset[str]:
    """Every name under which a job may be stored that this process can run."""
    return frozenset(_kinds)


def defined_kinds() -> frozenset[str]:
    """Every kind that is defined in this process, by today's name."""
    return frozenset(each.kind for each in _kinds.values())


def todays_name(stored: str) -> str:
    """What the kind of a job that is stored as *stored* is called today; where it is not known, what it was called."""
    known = _kinds.get(stored)
    return name_and_version(stored)[0] if known is None else known.kind


def as_stored(stored: str) -> str:
    """The kind a job is stored as, in words: which it is, at which version, and what that is today."""
    name, version = name_and_version(stored)
    known = _kinds.get(stored)
    words = f"kind {name!r}, stored at version {version}"
    if known is None:
        return words
    if known.history.version != version:
        words += f" of {known.history.version}"
    return words if known.kind == name else f"{words}, today {known.kind!r}"


def newer_version(stored: str) -> str | None:
    """Of a job that newer code has stored, the versions in words; None of any other that is not known here."""
    name, version = name_and_version(stored)
    known = _kinds.get(name)
    if known is None or version <= known.history.version:
        return None
    return f"its inputs are of version {version}, and this process knows version {known.history.version}"


def _todays(known: Kind) -> Kind:
    return known.definition if isinstance(known, Former) else known


def is_standalone(kind: str) -> bool:
    """Whether *kind* is kept out of processes that serve requests."""
    return kind in _standalone


def kinds_for_anywhere() -> frozenset[str]:
    """Every kind this process can run beside requests."""
    return frozenset(_kinds.keys() - _standalone)


def definitions() -> Iterator[Kind]:
    """Every definition, by kind."""
    known = {each.kind: each for each in map(_todays, _kinds.values())}
    return iter([known[kind] for kind in sorted(known)])


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
