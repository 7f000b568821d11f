"""Is what came back what was kept? And if something cannot be kept at all: what, where and why?

Faithful means: the same type and an equal value. Not kept are the *name* of a datetime's zone (its offset is),
the order of a dict (jsonb sorts keys), the order of a set, and the sign of -0.0.
"""

import dataclasses
import datetime as dt
import math
import operator
import pathlib
import reprlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any
from uuid import UUID

import attrs

DEEPEST = 250  # orjson stops at 254, Python's stack not far behind, and neither says where

WHAT_TO_DO = "pass what is declared, or declare what is passed"


@attrs.frozen
class Trouble:
    """Where in a value something cannot be stored, what it is, and why not."""

    path: str
    value: Any
    why: str


def difference(kept: Any, back: Any) -> Trouble | None:
    """Find what came back as something else: another value, or an equal one of another type."""
    kind: Any = type(kept)
    if kind is not type(back):
        # 3 may stand for 3.0. Drivers have UUID classes of their own, which equal the standard one.
        forgiven = (kind is int and type(back) is float) or (isinstance(kept, UUID) and type(back) is UUID)
        return None if forgiven and kept == back else _changed(kept, back)
    equal = _EQUAL.get(kind)
    if equal is not None:
        return None if equal(kept, back) else _changed(kept, back)
    if issubclass(kind, dict):
        return _difference_by_key(kept, back)
    if issubclass(kind, list | tuple):
        pairs = ((f"[{place}]", *pair) for place, pair in enumerate(zip(kept, back, strict=False)))
        return _first_difference(pairs) or (None if len(kept) == len(back) else _changed(kept, back))
    if issubclass(kind, set | frozenset):
        found = {item: item for item in back}
        same = len(kept) == len(back) and all(i in found and difference(i, found[i]) is None for i in kept)
        return None if same else _changed(kept, back)
    names = _fields(kind)
    if names is not None:
        return _first_difference((f".{name}", getattr(kept, name), getattr(back, name)) for name in names)
    return None if kept == back else _changed(kept, back)


def _same_moment(kept: dt.datetime, back: dt.datetime) -> bool:
    # Between two zones `==` is False in every hour a clock is put back, so it serves for one zone only.
    if kept.tzinfo is back.tzinfo:
        return kept == back
    return kept.replace(tzinfo=None) == back.replace(tzinfo=None) and kept.utcoffset() == back.utcoffset()


def _same_time(kept: dt.time, back: dt.time) -> bool:
    return kept == back and (kept.tzinfo is None) == (back.tzinfo is None)


def _same_float(kept: float, back: float) -> bool:
    return kept == back and math.isfinite(kept)


def _same_decimal(kept: Decimal, back: Decimal) -> bool:
    return kept.is_finite() and str(kept) == str(back)  # 1.0 == 1.00, and yet they are not the same


_EQUAL: dict[type, Callable[[Any, Any], bool]] = {
    # Path() is a PosixPath or a WindowsPath.
    **dict.fromkeys(
        (str, int, bool, type(None), bytes, UUID, dt.date, dt.timedelta, type(pathlib.Path())), operator.eq
    ),
    dt.datetime: _same_moment,
    dt.time: _same_time,
    float: _same_float,
    Decimal: _same_decimal,
}


def _difference_by_key(kept: dict[Any, Any], back: dict[Any, Any]) -> Trouble | None:
    keys = {key: key for key in back}
    for key in kept:
        if key not in keys or difference(key, keys[key]):
            return Trouble(
                "", key, "a key that would come back as another; keys are text unless the dict is annotated"
            )
    if len(kept) != len(back):
        return _changed(kept, back)
    return _first_difference((f"[{shorten(key)}]", value, back[key]) for key, value in kept.items())


def _first_difference(pairs: Iterator[tuple[str, Any, Any]]) -> Trouble | None:
    for step, kept, back in pairs:
        found = difference(kept, back)
        if found is not None:
            return attrs.evolve(found, path=step + found.path)
    return None


def _changed(kept: Any, back: Any) -> Trouble:
    return Trouble(
        "",
        kept,
        f"which would come back as {shorten(back)}; {WHAT_TO_DO}",
    )


def _find_fields(kind: Any) -> tuple[str, ...] | None:
    """Name the fields of an attrs class or dataclass that are stored, or at least matter to its `==`."""
    if attrs.has(kind):
        return tuple(field.name for field in attrs.fields(kind) if field.init or field.eq)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind) if field.init or field.compare)
    return None


_fields: Callable[[Any], tuple[str, ...] | None] = lru_cache(1024)(_find_fields)


def culprit(
    value: Any, why_not: Callable[[Any], str | None], path: str = "", above: tuple[int, ...] = ()
) -> Trouble | None:
    """Find the first thing inside *value* that *why_not* has a sentence about."""
    if id(value) in above:
        return Trouble(path, value, "which contains itself; JSON is a tree")
    if len(above) > DEEPEST:
        return Trouble(
            path, value, f"nested deeper than {DEEPEST} levels; pass an id and load the data in the job"
        )
    why = why_not(value)
    if why is not None:
        return Trouble(path, value, why)
    for step, inner in _parts(value):
        found = culprit(inner, why_not, path + step, (*above, id(value)))
        if found is not None:
            return found
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield "", key
            yield f"[{shorten(key)}]", inner
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{place}]", inner) for place, inner in enumerate(value))
    else:
        for name in _fields(type(value)) or ():
            yield f".{name}", getattr(value, name, None)


def inside(value: Any, path: str) -> Any:
    """Find what stands at *path*, as far as the path can be followed."""
    for step, inner in _parts(value):
        if step and path.startswith(step) and path[len(step) :][:1] in ("", ".", "["):
            return inside(inner, path[len(step) :])
    return value


def never_storable(value: Any) -> str | None:
    """Say why no annotation could make *value* storable."""
    match value:
        case bool() | Enum():
            return None
        case str() if "\0" in value:
            return "which contains a NUL character, and Postgres cannot store one; remove it, or declare and pass bytes"
        case str() if any("\ud800" <= character <= "\udfff" for character in value):
            return "which contains a lone surrogate, half a character; decode it with errors='replace', or pass bytes"
        case int() if not -(2**63) <= value < 2**64:
            return "which needs more than 64 bits; declare and pass it as Decimal or str"
        case float() if not math.isfinite(value):
            return "for which JSON has no word; pass None or a string instead"
        case Decimal() if not value.is_finite():
            return "which is no number; pass None or a string instead"
        case dt.datetime() if value.utcoffset() is None:
            return "which has no time zone; make it aware, for instance with datetime.now(timezone.utc)"
    if is_entity(type(value)):
        return _no_value(value)
    if _fields(type(value)) is None and (
        callable(value) or hasattr(value, "read") or hasattr(value, "__aenter__")
    ):
        return (
            "which lives in this process only; pass an id or a path and open it in the job, "
            f"or let the runner supply it: annotate the field Dependency[{type(value).__name__}]"
        )
    return None


def is_entity(kind: Any) -> bool:
    """Whether the values of *kind* are rows of a database: SQLAlchemy's instances, Django's models."""
    return isinstance(kind, type) and (
        hasattr(kind, "_sa_class_manager") or (hasattr(kind, "_meta") and hasattr(kind, "_base_manager"))
    )


def _no_value(entity: Any) -> str:
    """Say why an entity is no input, and what is, as far as it knows of itself where it stands."""
    state = getattr(entity, "_sa_instance_state", None)
    if state is None:
        is_saved, is_gone = not entity._state.adding, False
    else:
        is_saved, is_gone = state.key is not None, state.deleted or state.was_deleted
    if is_gone:
        return "an entity that was deleted: the job would find nothing to work on"
    if not is_saved:
        return "an entity that has not been saved: flush or save it, then pass its id, and load it in the job"
    return "an entity, which may have changed by the time the job runs; pass its id, and load it in the job"


def not_json(value: Any) -> str | None:
    """Say why orjson refuses *value* although the hooks have written it."""
    if type(value) in {str, int, float, bool, type(None), dict, list, tuple} or isinstance(value, Enum):
        return None
    kind = type(value).__name__
    return (
        f"a value of type {kind}, which its annotation does not say; annotate it as {kind}, "
        "pass plain data or an id, or let the runner supply it as a Dependency[...]"
    )


def shorten(value: Any) -> str:
    """Picture *value* in a line, whatever its `repr` does."""
    try:
        return _picture.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


_picture = reprlib.Repr()
_picture.maxother = _picture.maxstring = 80
