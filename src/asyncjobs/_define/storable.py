"""What can be stored: how the values of each type are written and read back.

One cattrs converter serves the process. cattrs alone writes UUID and time so that they fail only when read,
and cannot write Decimal and timedelta at all; the hooks below close that gap and are strict where Python's own
conversions are generous: `int(3.9)` is 3 and `str(None)` is "None", and neither is what somebody stored.
"""

import dataclasses
import datetime as dt
import math
import typing
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum
from types import GenericAlias, NoneType
from typing import Any, NoReturn
from uuid import UUID

import attrs
import orjson
from cattrs import Converter
from cattrs.cols import list_structure_factory
from cattrs.disambiguators import create_default_dis_func, is_supported_union
from cattrs.preconf.orjson import OrjsonConverter, make_converter

from asyncjobs._define.faithful import is_entity

# Without these orjson would write subclasses, dates and dataclasses by rules of its own, behind cattrs' back.
STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


def _sorted(items: list[Any]) -> list[Any]:
    """Write sets in one order, so that equal inputs are equal text in every process."""
    return sorted(items, key=lambda item: orjson.dumps(item, option=STRICT))


def _write_timedelta(value: Any) -> Any:
    """ISO 8601, which Postgres casts to interval: exact to the microsecond, unlike float seconds."""
    if not isinstance(value, dt.timedelta):
        return value
    seconds, micros = divmod(abs(value) // dt.timedelta(microseconds=1), 1_000_000)
    return f"PT{'-' if value < dt.timedelta() else ''}{seconds}.{micros:06}S"


def _read_timedelta(text: str, _: Any) -> dt.timedelta:
    if not (text.startswith("PT") and text.endswith("S")):
        raise ValueError(f"{text!r} is not a duration such as PT1.500000S")
    return dt.timedelta(microseconds=int(Decimal(text[2:-1]) * 1_000_000))


def _read_datetime(text: str, _: Any) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.utcoffset() is None:
        raise ValueError("it has no time zone")
    return moment


def _read_int(value: Any, declared: Any) -> Any:
    # Text, because the keys of a dict are text in JSON.
    if type(value) is not int and type(value) is not str:
        raise TypeError(f"{value!r} is not an integer")
    return int(value) if declared is int else declared(int(value))


def _read_float(value: Any, declared: Any) -> Any:
    number = float(value) if type(value) in (float, int, str) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number if declared is float else declared(number)


def _read_bool(value: Any, _: Any) -> bool:
    if value is not True and value is not False:
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _read_str(value: Any, declared: Any) -> Any:
    if type(value) is not str:
        raise TypeError(f"{value!r} is not text")
    return value if declared is str else declared(value)


def _read_none(value: Any, _: Any) -> None:
    if value is not None:
        raise TypeError(f"{value!r} is not None")


_MANY: dict[Any, Callable[[list[Any]], Any]] = {
    # cattrs reads a Sequence as a tuple; in a job's inputs it nearly always is a list.
    **dict.fromkeys((list, Sequence, MutableSequence), lambda items: items),
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}


def _is_many(declared: Any) -> bool:
    origin = getattr(declared, "__origin__", declared)
    return origin in _MANY and (origin is not tuple or typing.get_args(declared)[1:] in ((), (...,)))


def _read_many(declared: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Read a list, a set or a tuple from a list only: to cattrs "abc" is as good as ["a", "b", "c"]."""
    listed: Any = GenericAlias(list, (typing.get_args(declared) or (Any,))[0])
    read, make = list_structure_factory(listed, converter), _MANY[getattr(declared, "__origin__", declared)]

    def read_many(stored: Any, _: Any) -> Any:
        if type(stored) is not list:
            raise TypeError(f"{stored!r} is not a list")
        return make(read(stored, listed))

    return read_many


def _is_enum_keyed(declared: Any) -> bool:
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    return (
        origin in (dict, Mapping, MutableMapping)
        and isinstance(arguments[0], type)
        and issubclass(arguments[0], Enum)
    )


def _write_enum_keyed(declared: Any, converter: Converter) -> Callable[[Any], Any]:
    """`str(Color.RED)` is "Color.RED", which no Enum reads back; the member's value is."""
    write = converter.get_unstructure_hook(dict[str, typing.get_args(declared)[1]])  # type: ignore[misc]
    return lambda members: write({str(member.value): value for member, value in members.items()})


def _read_enum_keyed(declared: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    members, values = typing.get_args(declared)
    by_value = {str(member.value): member for member in members}
    plain: Any = dict[str, values]  # type: ignore[valid-type]
    read = converter.get_structure_hook(plain)
    return lambda stored, _: {by_value[key]: value for key, value in read(stored, plain).items()}


def _is_union_of_classes(declared: Any) -> bool:
    return (
        is_supported_union(declared)
        and len([kind for kind in typing.get_args(declared) if kind is not NoneType]) > 1
    )


def _read_union_of_classes(declared: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Tell the classes of a union apart as cattrs does, by a field only one of them requires, but by written ones.

    cattrs also picks fields with init=False, which it never writes, and picks by the order of a set of strings:
    the process that enqueued would read the job, and the process that runs it would not.
    """
    kinds = {_written_part(kind): kind for kind in typing.get_args(declared) if kind is not NoneType}
    tell = create_default_dis_func(converter, *kinds)

    def read(stored: Any, _: Any) -> Any:
        if stored is None and NoneType in typing.get_args(declared):
            return None
        kind = kinds[tell(stored)]  # type: ignore[index]
        return converter.structure(stored, kind)

    return read


def _written_part(kind: Any) -> type:
    """Picture *kind*, an attrs class or a dataclass, with only the fields that are written."""
    origin = typing.get_origin(kind) or kind
    types = typing.get_type_hints(origin)
    names = {}
    for field in attrs.fields(origin) if attrs.has(origin) else dataclasses.fields(origin):
        given = field.default not in (attrs.NOTHING, dataclasses.MISSING)
        given = given or getattr(field, "default_factory", dataclasses.MISSING) is not dataclasses.MISSING
        if field.init:
            names[field.name] = attrs.field(
                default=None if given else attrs.NOTHING, type=types[field.name], kw_only=True
            )
    return attrs.make_class(origin.__name__, names)


def _refuse_entity(declared: Any) -> NoReturn:
    raise TypeError(f"{declared.__name__} is an entity; pass its id, and load it in the job")


def _make_converter() -> OrjsonConverter:
    # detailed_validation: an error knows its path, and in Python 3.11 a `try` that does not fail costs nothing.
    converter = make_converter(detailed_validation=True, unstruct_collection_overrides={AbstractSet: _sorted})
    # A value that is not of its declared type is handed on as it is, for the comparison to find and name.
    converter.register_unstructure_hook(UUID, lambda v: str(v) if isinstance(v, UUID) else v)
    converter.register_unstructure_hook(Decimal, lambda v: str(v) if isinstance(v, Decimal) else v)
    converter.register_unstructure_hook(dt.time, lambda v: v.isoformat() if isinstance(v, dt.time) else v)
    converter.register_unstructure_hook(
        dt.datetime, lambda v: v.isoformat() if isinstance(v, dt.datetime) else v
    )
    converter.register_unstructure_hook(dt.date, lambda v: v.isoformat() if type(v) is dt.date else v)
    converter.register_unstructure_hook(dt.timedelta, _write_timedelta)
    converter.register_structure_hook(UUID, lambda v, _: UUID(v))
    converter.register_structure_hook(Decimal, lambda v, _: Decimal(_read_str(v, str)))
    converter.register_structure_hook(dt.time, lambda v, _: dt.time.fromisoformat(v))
    converter.register_structure_hook(dt.datetime, _read_datetime)
    converter.register_structure_hook(dt.timedelta, _read_timedelta)
    converter.register_structure_hook(int, _read_int)
    converter.register_structure_hook(float, _read_float)
    converter.register_structure_hook(bool, _read_bool)
    converter.register_structure_hook(str, _read_str)
    converter.register_structure_hook(NoneType, _read_none)
    # Untyped data is orjson's to write, as it is: nothing in it may be turned into something else on the way.
    converter.register_unstructure_hook_func(lambda t: t is Any or t is object, lambda v: v)
    converter.register_structure_hook_func(lambda t: t is object, lambda v, _: v)
    # Where its fields look like plain data, a copy of the row would be stored in silence.
    converter.register_unstructure_hook_factory(is_entity, _refuse_entity)
    converter.register_structure_hook_factory(_is_many, _read_many)
    converter.register_structure_hook_factory(_is_union_of_classes, _read_union_of_classes)
    converter.register_unstructure_hook_factory(_is_enum_keyed, _write_enum_keyed)
    converter.register_structure_hook_factory(_is_enum_keyed, _read_enum_keyed)
    return converter


_converter = _make_converter()


@attrs.frozen
class Storable:
    """How the values of one declared type are written as JSON-native data and read back."""

    declared: Any
    write: Callable[[Any], Any]
    read: Callable[[Any, Any], Any]


_known: dict[int, Storable] = {}


def storable(declared: Any) -> Storable:
    """Find the hooks of *declared*, made once: cattrs' own look-up hashes the type, which costs more than the hook."""
    known = _known.get(id(declared))
    if known is None or known.declared is not declared:
        known = Storable(
            declared, _converter.get_unstructure_hook(declared), _converter.get_structure_hook(declared)
        )
        if len(_known) > 10_000:  # annotations made anew for each call would stay forever
            _known.clear()
        _known[id(declared)] = known  # keeps the type alive, and with it its id
    return known
