"""What jobs are given: declared types with values that fit them, and JSON-like junk with values that do not."""

import dataclasses
import datetime as dt
import enum
import pathlib
from collections.abc import Callable
from decimal import Decimal
from types import GenericAlias
from typing import Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import attrs
from hypothesis import strategies as st

TypeAndValues = tuple[Any, st.SearchStrategy[Any]]


class Colour(enum.Enum):
    RED = "red"
    DEEP_BLUE = 7


class Mood(enum.StrEnum):
    CALM = "calm"
    WILD = "wild"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


UserId = NewType("UserId", int)


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    name: str
    size: int


@attrs.frozen
class Line:
    item: str
    amount: Decimal
    due: dt.date | None = None


@attrs.define
class Order:
    id: UUID
    lines: list[Line]
    parent: "Order | None" = None
    _note: str = ""
    count: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.count = len(self.lines)


@dataclasses.dataclass
class Point:
    x: float
    y: float
    label: str | None = None


int64s = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
offsets = st.integers(-86_399, 86_399).map(lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)))
fixed_moments = st.datetimes(timezones=offsets | st.just(dt.UTC))
moments = fixed_moments | st.datetimes(timezones=st.timezones(), allow_imaginary=True)
lines = st.builds(Line, texts, decimals, st.none() | st.dates())
orders = st.recursive(
    st.builds(Order, st.uuids(), st.lists(lines, max_size=2), st.none(), texts),
    lambda parents: st.builds(Order, st.uuids(), st.lists(lines, max_size=2), parents, texts),
    max_leaves=3,
)

HASHABLE: list[TypeAndValues] = [
    (int, int64s),
    (str, texts),
    (UUID, st.uuids()),
    (Decimal, decimals),
    (dt.date, st.dates()),
    (dt.datetime, fixed_moments),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (Colour, st.sampled_from(Colour)),
    (Mood, st.sampled_from(Mood)),
    (Level, st.sampled_from(Level)),
    (UserId, int64s),
    (float, floats),
]

PLAIN: list[TypeAndValues] = [
    *HASHABLE,
    (bool, st.booleans()),
    (dt.datetime, moments),
    (bytes, st.binary(max_size=20)),
    (pathlib.Path, texts.map(pathlib.Path)),
    (Literal["a", 2] | None, st.sampled_from(["a", 2, None])),
    (int | str, int64s | texts),
    (int | float | None, int64s | floats | st.none()),
    (UUID | int, st.uuids() | int64s),
    (Line | Point, lines | st.builds(Point, floats, floats)),
    (Line | Order | None, lines | orders | st.none()),
    (Pair, st.builds(Pair, int64s, texts)),
    (Options, st.fixed_dictionaries({"name": texts, "size": int64s})),
    (Order, orders),
    (Point, st.builds(Point, floats, floats, st.none() | texts)),
    (
        Any,
        st.recursive(
            st.none() | st.booleans() | int64s | floats | texts,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
            max_leaves=5,
        ),
    ),
]


def _list(inner: TypeAndValues) -> TypeAndValues:
    return GenericAlias(list, inner[0]), st.lists(inner[1], max_size=3)


def _tuple(inner: TypeAndValues) -> TypeAndValues:
    return GenericAlias(tuple, (inner[0], ...)), st.lists(inner[1], max_size=3).map(tuple)


def _pair(inner: TypeAndValues) -> TypeAndValues:
    return GenericAlias(tuple, (inner[0], int)), st.tuples(inner[1], int64s)


def _optional(inner: TypeAndValues) -> TypeAndValues:
    return (inner[0] if inner[0] is Any else inner[0] | None), st.none() | inner[1]


def _dictionary(key: TypeAndValues, inner: TypeAndValues) -> TypeAndValues:
    return GenericAlias(dict, (key[0], inner[0])), st.dictionaries(key[1], inner[1], max_size=3)


def _set(inner: TypeAndValues) -> TypeAndValues:
    return GenericAlias(set, inner[0]), st.sets(inner[1], max_size=3)


def _frozenset(inner: TypeAndValues) -> TypeAndValues:
    return GenericAlias(frozenset, inner[0]), st.frozensets(inner[1], max_size=3)


def _grown(inner: st.SearchStrategy[TypeAndValues]) -> st.SearchStrategy[TypeAndValues]:
    shapes: list[Callable[[TypeAndValues], TypeAndValues]] = [_list, _tuple, _pair, _optional]
    return st.builds(lambda shape, inner: shape(inner), st.sampled_from(shapes), inner) | st.builds(
        _dictionary, st.sampled_from(HASHABLE), inner
    )


_hashed = st.builds(
    lambda shape, inner: shape(inner), st.sampled_from([_set, _frozenset]), st.sampled_from(HASHABLE)
)
types_with_values = st.recursive(st.sampled_from(PLAIN) | _hashed, _grown, max_leaves=4)
"""A declared type, and the strategy of its values."""

typed_values = types_with_values.flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1]))
"""A declared type, and one value of it."""

_odd = (
    st.floats()
    | st.integers()
    | st.text(max_size=5)
    | st.text(st.characters(codec=None), max_size=5)
    | st.sampled_from(
        ["\0", "\\u0000", "\\\0", "\ud800", "1e+16", object(), print, Colour.RED, Mood.CALM, 2**70]
    )
    | st.datetimes()
    | st.times()
    | st.decimals()
    | st.binary(max_size=3)
    | st.complex_numbers()
    | orders
    | moments
)
junk = st.recursive(
    st.none() | st.booleans() | _odd,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.none() | st.integers(), inner, max_size=3)
        | st.builds(Point, inner, inner, inner)
        | st.builds(Line, inner, inner)
    ),
    max_leaves=6,
)
"""Anything a careless caller might pass."""
