"""What is stored comes back, and what cannot come back is refused where it is passed in."""

import datetime as dt
import io
import json
import os
import re
import subprocess
import sys
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import asyncpg
import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncjobs._define.codec import Codec
from asyncjobs._define.faithful import difference, shorten
from asyncjobs.errors import InvalidInput, UndecodableInput
from tests.strategies import (
    Colour,
    Level,
    Line,
    Mood,
    Options,
    Order,
    Pair,
    Point,
    UserId,
    junk,
    typed_values,
    types_with_values,
)

codec = Codec()
NOON = dt.datetime.fromisoformat("2024-05-01T12:00:00")


def back_and_forth(value: Any, declared: Any) -> Any:
    text = codec.encode({"it": value}, {"it": declared}, what="Job")
    return codec.decode(text, {"it": declared}, what="Job")["it"]


def as_jsonb_prints(text: str) -> str:
    """What Postgres makes of *text*: numbers written out, minus zero without its sign, keys in an order of its own."""

    def printed(value: Any) -> str:
        match value:
            case dict():
                items = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
                return "{" + ", ".join(f"{json.dumps(key)}: {printed(inner)}" for key, inner in items) + "}"
            case list():
                return "[" + ", ".join(map(printed, value)) + "]"
            case Decimal():
                return format(abs(value) if value == 0 else value, "f")
        return json.dumps(value, ensure_ascii=False)

    return printed(json.loads(text, parse_float=Decimal, parse_int=Decimal))


def refusal(value: Any, declared: Any = Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        codec.encode({"it": value}, {"it": declared}, what="Job")
    return str(caught.value)


# Laws


@given(typed_values)
@settings(deadline=None)
def test_what_is_stored_comes_back(typed: tuple[Any, Any]) -> None:
    """Of every type: equal, and as often as one likes."""
    declared, value = typed
    assert back_and_forth(value, declared) == value
    text = codec.encode_value(value, declared, what="the result")
    assert codec.decode_value(text, declared, what="the result") == value
    assert codec.encode_value(codec.decode_value(text, declared, what=""), declared, what="") == text


@given(typed_values)
@settings(deadline=None)
@example((float, 1e300))
@example((float, -0.0))
@example((float, 1e-320))
@example((Any, [1e16, -1.5e300, "1e+16", 'a"1e+16,']))
def test_jsonb_may_print_numbers_its_own_way(typed: tuple[Any, Any]) -> None:
    """A float written out by Postgres in 301 digits is still that float."""
    declared, value = typed
    text = codec.encode({"it": value}, {"it": declared}, what="Job")
    back = codec.decode(as_jsonb_prints(text), {"it": declared}, what="Job")["it"]
    assert back == value
    assert difference(value, back) is None


@given(junk, types_with_values)
@settings(max_examples=400, deadline=None)
def test_junk_is_refused_or_kept(value: Any, typed: tuple[Any, Any]) -> None:
    """Whatever is passed where whatever is declared: InvalidInput, or the same thing back. Never another error."""
    for declared in (Any, typed[0]):
        try:
            back = back_and_forth(value, declared)
        except InvalidInput as error:
            assert str(error).startswith("Job cannot be stored: input it")
        else:
            assert back == value
            assert type(back) is type(value) or (type(value) is int and type(back) is float)


@given(
    st.text() | junk.map(repr) | st.binary().map(lambda raw: raw.decode(errors="surrogateescape")),
    types_with_values,
)
@example('{"it": 1' + "0" * 400 + "}", (float, None))
@example('{"it": 1' + "0" * 5000 + "}", (int, None))
@example('{"it": NaN}', (float, None))
@example('{"it": ' + "[" * 900 + "]" * 900 + "}", (list[Any], None))
@example("[" * 100_000, (Any, None))
@settings(deadline=None)
def test_text_is_read_or_undecodable(text: str, typed: tuple[Any, Any]) -> None:
    """Whatever stands in the row: values, or UndecodableInput. Never another error."""
    for attempt in (
        lambda: codec.decode(text, {"it": typed[0]}, what="Job"),
        lambda: codec.decode_value(text, typed[0], what="the result"),
    ):
        try:
            attempt()
        except UndecodableInput as error:
            assert len(str(error)) < 1000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["x", "lines", "id"]), inner)
    ),
)


@given(json_values, types_with_values)
@settings(deadline=None)
def test_json_of_another_shape_is_undecodable(stored: Any, typed: tuple[Any, Any]) -> None:
    """The definition changed after the job was stored: the error says so, and is always the same."""
    try:
        codec.decode(json.dumps({"it": stored}), {"it": typed[0]}, what="Job")
    except UndecodableInput as error:
        assert "stored input it" in str(error)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@given(typed_values)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example((float, 1e300))
@example((float, -0.0))
@example((float, 5e-324))
@example((Any, {"a": [1e16, -1.7976931348623157e308, "\\u0000", "1e+16", 'a"1e+16,'], "": 2**64 - 1}))
async def test_jsonb_keeps_what_was_stored(connection: asyncpg.Connection, typed: tuple[Any, Any]) -> None:
    """Through a real Postgres: what its jsonb accepts and prints is read as what was passed."""
    declared, value = typed
    text = codec.encode({"it": value}, {"it": declared}, what="Job")
    printed = await connection.fetchval("select $1::text::jsonb::text", text)
    back = codec.decode(printed, {"it": declared}, what="Job")["it"]
    assert back == value
    assert difference(value, back) is None


@pytest.mark.failure_mode("F89")
@given(junk)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_jsonb_takes_all_that_was_not_refused(connection: asyncpg.Connection, value: Any) -> None:
    """Postgres never has to refuse what the codec let pass."""
    try:
        text = codec.encode_plain(value, what="meta")
    except InvalidInput:
        return
    printed = await connection.fetchval("select $1::text::jsonb::text", text)
    assert codec.decode_value(printed, Any, what="meta") == value


# What comes back


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (dict[int, str], {1: "a"}),
        (dict[uuid.UUID, int], {uuid.uuid4(): 1}),
        (dict[Colour, int], {Colour.RED: 1, Colour.DEEP_BLUE: 2}),
        (Mapping[Level, list[Line]], {Level.LOW: [Line("nails", Decimal("1.50"))]}),
        (dict[Mood, int] | None, {Mood.CALM: 1}),
        (Sequence[int], [1, 2]),
        (list[Line] | None, [Line("nails", Decimal("1.50"), dt.date(2024, 1, 1))]),
        (Line | Order, Order(uuid.uuid4(), [], None, "note")),
        (int | str, "5"),
        (uuid.UUID | None, None),
        (UserId, 5),
        (Options, {"name": "a", "size": 1}),
        (Pair, Pair(1, "a")),
        (object, {"free": [1, None]}),
        (dict, {"a": [1]}),
        (None, None),
        (Any, r"the text \u0000 is six characters"),
        (Any, {r"\\u0000": r"\\\u0000"}),
        (float, 3),
        (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
        (set[str], set("asyncjobs")),
    ],
)
def test_comes_back(declared: Any, value: Any) -> None:
    """Equal, and of the same type."""
    assert back_and_forth(value, declared) == value


def test_a_moment_keeps_its_offset_not_its_zone() -> None:
    """Even in the hour that happens twice: a clock's fold survives as its offset."""
    from zoneinfo import ZoneInfo

    second_time = dt.datetime(2024, 11, 3, 1, 30, tzinfo=ZoneInfo("America/New_York"), fold=1)
    back = back_and_forth(second_time, dt.datetime)
    assert back.isoformat() == "2024-11-03T01:30:00-05:00"


async def test_an_id_from_the_driver_is_an_id(connection: asyncpg.Connection) -> None:
    """asyncpg's own UUID class is as good as the standard one."""
    fetched = await connection.fetchval("select gen_random_uuid()")
    assert type(fetched) is not uuid.UUID
    assert back_and_forth(fetched, uuid.UUID) == fetched
    assert back_and_forth([fetched], list[uuid.UUID]) == [fetched]


def test_a_union_is_told_apart_alike_in_every_process() -> None:
    """By fields that are written, not by one that is computed, however this process orders its sets of strings."""
    code = (
        "from tests.strategies import Line, Order; from asyncjobs._define.codec import Codec; from uuid import UUID;"
        "print(Codec().decode_value(Codec().encode_value(Order(UUID(int=1), []), Line | Order | None, what=''),"
        " Line | Order | None, what='') == Order(UUID(int=1), []))"
    )
    for seed in range(5):
        seen = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=False,
        )
        assert seen.stdout == "True\n", seen.stderr


def test_equal_sets_are_equal_text() -> None:
    """A unique key made of the text must not depend on the order in which a process hashes strings."""
    text = codec.encode_value({"b", "c", "a"}, set[str], what="")
    assert text == '["a","b","c"]'


def test_a_duration_can_be_cast_to_an_interval() -> None:
    """What stands in the row is ISO 8601."""
    assert codec.encode_value(dt.timedelta(seconds=-90.5), dt.timedelta, what="") == '"PT-90.500000S"'


@pytest.mark.failure_mode("F94")
def test_only_what_is_both_stored_and_declared_is_read() -> None:
    """A field dropped since is ignored; a field added since is left to its default."""
    assert codec.decode('{"old": 1, "kept": 2}', {"kept": int, "new": str}, what="Job") == {"kept": 2}


# What is refused, and how


class Session:
    async def __aenter__(self) -> None: ...


class Trick(str):
    __slots__ = ()


@attrs.frozen
class Unresolved:
    station: "Sttion"  # type: ignore[name-defined]  # noqa: F821


def louder(name: str) -> str:
    return name + "!"


@attrs.frozen
class Growing:
    name: str = attrs.field(converter=louder)


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(5_000):
    DEEP = [DEEP]
TOO_DEEP_FOR_JSON: list[Any] = []
for _ in range(300):
    TOO_DEEP_FOR_JSON = [TOO_DEEP_FOR_JSON]


def in_words(value: object) -> str:
    """A name that is the same in every process: without the addresses objects show."""
    return re.sub(r" at 0x[0-9a-f]+", "", shorten(value))


@pytest.mark.parametrize(
    ("value", "declared", "place", "reason"),
    [
        (NOON, dt.datetime, "input it (declared datetime)", "datetime.now(timezone.utc)"),
        (NOON, dt.datetime | None, "input it", "has no time zone"),
        ([{"at": NOON}], Any, "input it[0]['at'] (input it is declared Any)", "has no time zone"),
        (
            Pair(1, cast("Any", NOON)),
            Pair,
            "input it[1]",
            "has no time zone",
        ),
        (NOON.replace(tzinfo=dt.UTC), Any, "input it", "annotate it as datetime"),
        (float("nan"), float, "input it (declared float) is nan", "JSON has no word"),
        ([1.0, float("inf")], Any, "input it[1]", "JSON has no word"),
        (Point(1.0, float("-inf")), Point, "input it.y", "JSON has no word"),
        ({float("inf"): 1}, dict[float, int], "input it", "JSON has no word"),
        (Decimal("NaN"), Decimal, "input it", "no number"),
        (Decimal("sNaN"), Decimal, "input it", "no number"),
        ("a\0b", str, "input it", "NUL"),
        ({"a\0b": 1}, Any, "input it", "NUL"),
        ("\\\0", str, "input it", "NUL"),
        ("\ud800", str, "input it", "lone surrogate"),
        (2**64, int, "input it", "64 bits"),
        (10**5000, int, "input it", "64 bits"),
        (3.9, int, "input it", "not an integer"),
        (3.0, int, "input it", "not an integer"),
        ("3", int, "is '3'", "would come back as 3"),
        (5, str, "is 5", "is not text"),
        (True, int, "is True", "not an integer"),
        (1, bool, "is 1", "neither true nor false"),
        ([1, 2], tuple[int, ...], "is [1, 2]", "would come back as (1, 2)"),
        ((1, 2), list[int], "is (1, 2)", "would come back as [1, 2]"),
        ((1, 2), Any, "is (1, 2)", "would come back as [1, 2]"),
        ({(1, True)}, set[tuple[int, int]], "input it", "not an integer"),
        (2**53 + 1, float, "input it", "would come back as"),
        ({1: 2}, Any, "input it", "key"),
        ({1: "a", "1": "b"}, dict[Any, str], "input it", "key"),
        (OrderedDict(a=1), Any, "input it", "OrderedDict"),
        (Trick("x"), str, "input it", "Trick"),
        (Mood.CALM, str, "input it", "would come back as 'calm'"),
        (Colour.RED, Any, "input it", "would come back as 'red'"),
        ("red", Colour, "is 'red'", "would come back as"),
        (Line("a", Decimal(1)), Any, "input it", "Line"),
        (Line("a", 1), Line, "input it.amount", "is 1, which does not fit: 1 is not text"),  # type: ignore[arg-type]
        ([Line("a", Decimal(1)), Line(7, Decimal(1))], list[Line], "input it[1].item", "is not text"),  # type: ignore[arg-type]
        ({"item": "a"}, Line, "input it", "no attribute"),
        (Growing("a"), Growing, "input it.name", "would come back as 'a!!'"),
        (io.StringIO(), Any, "input it", "Dependency[StringIO]"),
        (Session(), Any, "input it", "Dependency[Session]"),
        (Session(), Session, "input it", "Dependency[Session]"),
        ([lambda: 1], Any, "input it[0]", "Dependency[function]"),
        (object(), Any, "input it", "object"),
        (LOOP, Any, "input it[0]", "contains itself"),
        (LOOP, list, "input it", "contains itself"),
        (DEEP, Any, "input it", "nested"),
        (DEEP, list[Any], "input it", "nested"),
        (TOO_DEEP_FOR_JSON, list, "input it", "nested"),
        (1, "Sttion", "input it (declared Sttion)", ""),
        (Unresolved(1), Unresolved, "input it", "cannot be resolved"),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.date, "input it", "date"),
        (dt.date(2024, 1, 1), dt.datetime, "input it", "date"),
        (1 + 2j, complex, "input it", "complex"),
        ("abc", list[str], "input it", "would come back as ['a', 'b', 'c']"),
    ],
    ids=in_words,
)
@pytest.mark.failure_mode("F89")
def test_refused(value: Any, declared: Any, place: str, reason: str) -> None:
    """The message names the place, shows the value and says what to do."""
    message = refusal(value, declared)
    assert message.startswith("Job cannot be stored: ")
    assert place in message
    assert reason in message
    assert len(message) < 600


def test_a_result_is_refused_like_an_input() -> None:
    """With words for a value that has no name."""
    with pytest.raises(InvalidInput, match=r"^the result of f\(\) cannot be stored: value\[0\] "):
        codec.encode_value([NOON], list[dt.datetime], what="the result of f()")


def test_meta_is_json_and_nothing_else() -> None:
    """What is declared nowhere can only be what JSON itself knows."""
    assert codec.encode_plain({"a": [1, 2.5, None, True, "x"]}, what="meta") == '{"a":[1,2.5,null,true,"x"]}'
    with pytest.raises(InvalidInput, match=r"meta cannot be stored: value\['id'\]"):
        codec.encode_plain({"id": uuid.uuid4()}, what="meta")


@pytest.mark.failure_mode("F92")
def test_too_much_is_refused_with_both_sizes() -> None:
    """The limit is of bytes, as stored."""
    small = Codec(limit=10)
    assert small.encode({"a": "xx"}, {}, what="Job") == '{"a":"xx"}'
    with pytest.raises(InvalidInput, match="12 bytes of JSON, more than the limit of 10"):
        small.encode({"a": "éé"}, {}, what="Job")
    with pytest.raises(InvalidInput, match="1,000,002 bytes of JSON, more than the limit of 1,000,000"):
        codec.encode_value("x" * 1_000_000, str, what="the result")


@pytest.mark.parametrize(
    ("text", "declared", "reason"),
    [
        ('{"it": 3.9}', int, "stored input it does not fit its declaration int: 3.9 is not an integer"),
        ('{"it": null}', str, "None is not text"),
        ('{"it": [{"item": "a"}]}', list[Line], "stored input it[0]"),
        ('{"it": "2024-01-01T00:00:00"}', dt.datetime, "no time zone"),
        ('{"it": 1e400}', float, "not a finite number"),
        ('{"it": "green"}', Colour, "green"),
        ('{"it": "abc"}', list[str], "'abc' is not a list"),
        ('{"it": "abc"}', set[str], "'abc' is not a list"),
        ('["it"]', int, "not an object"),
        ('{"it": ', int, "cannot be read as JSON"),
        ('{"it": {"station": 1}}', Unresolved, "cannot be resolved"),
    ],
)
def test_undecodable(text: str, declared: Any, reason: str) -> None:
    """The message names the place, shows what is stored and says what to do."""
    with pytest.raises(UndecodableInput) as caught:
        codec.decode(text, {"it": declared}, what="Job")
    assert reason in str(caught.value)


def test_a_float_beyond_orjson_is_still_read() -> None:
    """SQL may have written it: jsonb keeps any number, and prints it in full."""
    assert codec.decode('{"it": 1' + "0" * 300 + "}", {"it": float}, what="Job") == {"it": 1e300}
