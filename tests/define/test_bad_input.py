"""Bad input gets a clear error in the caller, through every door, and stores nothing."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import InvalidInput, InvalidOption, Jobs, Later, job
from tests.postgres import Databases

NAIVE = dt.datetime.fromisoformat("2024-05-01")


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Line:
    n: int
    text: str = ""


@attrs.frozen
class Takes(Later):
    value: Any = None
    number: int = 0
    amount: float = 0.0
    text: str = ""
    price: Decimal = Decimal(0)
    flag: bool = False
    when: dt.datetime | None = None
    line: Line | None = None
    numbers: list[int] = attrs.Factory(list)
    colour: Colour = Colour.RED

    async def call(self) -> None: ...

    @job
    async def method(self, *, value: Any = None, number: int = 0, text: str = "") -> None: ...


@attrs.frozen
class Named(Later):
    text: str

    @job
    async def method(self, text: str) -> None: ...


@job
async def function(  # noqa: PLR0917
    value: Any = None,
    number: int = 0,
    amount: float = 0.0,
    text: str = "",
    price: Decimal = Decimal(0),
    flag: bool = False,
    when: dt.datetime | None = None,
    line: Line | None = None,
    numbers: list[int] = [],  # noqa: B006
    colour: Colour = Colour.RED,
) -> None: ...


DOORS: dict[str, Callable[[Jobs, dict[str, Any]], Any]] = {
    "later": lambda jobs, given: Takes(**given).later("call"),
    "later bound": lambda jobs, given: _bound(Takes(**given)),
    "later on": lambda jobs, given: _on(jobs, given),
    "later_many": lambda jobs, given: Later.later_many([Takes(), Takes(**given)], "call"),
    "function": lambda jobs, given: function.later(**given),
    "set": lambda jobs, given: function.set(priority=3).later(**given),
    "enqueue_many": lambda jobs, given: jobs.enqueue_many([function.prepare(), function.prepare(**given)]),
}


async def _bound(takes: Takes) -> None:
    await takes.later(takes.call)


async def _on(jobs: Jobs, given: dict[str, Any]) -> None:
    async with jobs.connection() as connection, connection.transaction(), jobs.on(connection):
        await Takes().later("call")
        await Takes(**given).later("call")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": "a\0b"}, "NUL character"),
    ({"value": "a\0b"}, "NUL character"),
    ({"value": {"a\0": 1}}, "NUL character"),
    ({"value": {"deep": [{"er": "\0"}]}}, r"input value\['deep'\]\[0\]\['er'\].*NUL character"),
    ({"text": "\ud800"}, "lone surrogate"),
    ({"value": ["\udfff"]}, r"input value\[0\].*lone surrogate"),
    ({"amount": float("nan")}, r"input amount \(declared float\) is nan.*JSON has no word"),
    ({"amount": float("inf")}, "JSON has no word"),
    ({"value": -float("inf")}, "JSON has no word"),
    ({"price": Decimal("NaN")}, "which is no number"),
    (
        {"text": "x" * 1_000_001},
        r"it is 1,000,\d+ bytes of JSON, more than the limit of 1,000,000; keep the data where it belongs",
    ),
    ({"when": NAIVE}, r"input when .* has no time zone; make it aware"),
    ({"value": NAIVE}, "has no time zone"),
    ({"number": 3.9}, r"input number \(declared int\) is 3\.9"),
    ({"number": "3"}, r"input number \(declared int\) is '3'"),
    ({"number": True}, r"input number \(declared int\) is True"),
    ({"number": None}, r"input number \(declared int\) is None"),
    ({"number": 2**70}, "more than 64 bits"),
    ({"text": 3}, r"input text \(declared str\) is 3"),
    ({"text": None}, r"input text \(declared str\) is None"),
    ({"flag": 1}, r"input flag \(declared bool\) is 1"),
    ({"price": 1.5}, r"input price \(declared Decimal\) is 1\.5"),
    ({"line": Line("x")}, r"input line\.n .* is 'x'"),  # type: ignore[arg-type]
    ({"line": {"n": 1}}, "input line"),
    ({"numbers": "12"}, "input numbers"),
    ({"numbers": (1, 2)}, "input numbers"),
    ({"numbers": [1, 2.5]}, r"input numbers\[1\].* is 2\.5"),
    ({"colour": "red"}, "input colour"),
    ({"value": Colour.RED}, "input value"),
    ({"value": Line(1)}, "annotate it as Line"),
    ({"value": {3: "a"}}, "keys are text"),
    ({"value": b"bytes"}, "annotate it as bytes"),
    ({"value": {1, 2}}, "annotate it as set"),
    ({"value": object()}, "input value"),
    ({"value": print}, "lives in this process only; pass an id or a path and open it in the job"),
]


@pytest.fixture(scope="module")
async def bad(databases: Databases, migrated: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    """A Jobs on a database nothing may be stored in."""
    async with databases.clone(migrated) as dsn, Jobs(dsn) as jobs:
        yield jobs


@pytest.mark.failure_mode("F89")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("given", "words"), BAD)
async def test_bad_input_is_refused_at_once(bad: Jobs, given: dict[str, Any], words: str, door: str) -> None:
    """By every way a job can be enqueued, with words that name the input; nothing is stored, of many not one."""
    with pytest.raises(InvalidInput, match=words) as refusal:
        await DOORS[door](bad, given)
    assert "cannot be stored" in str(refusal.value)
    assert len(str(refusal.value)) < 800
    assert await bad.count_jobs() == {}


@pytest.mark.parametrize(
    ("given", "words"), [each for each in BAD if next(iter(each[0])) in ("value", "number", "text")]
)
async def test_bad_arguments_of_a_method_are_refused(bad: Jobs, given: dict[str, Any], words: str) -> None:
    """They are looked at as the fields are."""
    with pytest.raises(InvalidInput, match=words):
        await Takes().method.later(**given)
    assert await bad.count_jobs() == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"meta": {"a": "\0"}}, InvalidInput),
        ({"meta": {"a": "\ud800"}}, InvalidInput),
        ({"meta": {"a": float("nan")}}, InvalidInput),
        ({"meta": {"a": NAIVE}}, InvalidInput),
        ({"meta": {"a": "x" * 1_000_001}}, InvalidInput),
        ({"tags": ["\0"]}, InvalidOption),
        ({"tags": ["\ud800"]}, InvalidOption),
        ({"queue": "\0"}, InvalidOption),
        ({"queue": "\ud800"}, InvalidOption),
        ({"at": NAIVE}, InvalidOption),
        ({"at": dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=1)))}, InvalidOption),
        ({"delay": -1}, InvalidOption),
        ({"delay": dt.timedelta(days=-1)}, InvalidOption),
        ({"priority": 40_000}, InvalidOption),
    ],
)
async def test_bad_options_store_nothing(bad: Jobs, options: dict[str, Any], error: type[Exception]) -> None:
    """Neither of a service, of a function, nor of many."""
    calls: list[Callable[[], Any]] = [
        lambda: Takes().later("call", **options),
        lambda: function.set(**options).later(),
        lambda: Takes().method.set(**options).later(),
        lambda: Later.later_many([Takes(), Takes()], "call", **options),
    ]
    for call in calls:
        with pytest.raises(error):
            await call()
    assert await bad.count_jobs() == {}


@pytest.mark.failure_mode("F92")
async def test_the_limit_is_configurable(dsn: str) -> None:
    """`payload_limit=` in bytes of JSON: of the inputs, of the arguments with them, and of meta."""
    async with Jobs(dsn, payload_limit=100) as jobs:
        await function.later(text="x" * 80)
        for refused in (
            function.later(text="ü" * 50),
            Named("x" * 40).method.later("x" * 60),
            function.set(meta={"a": "x" * 100}).later(),
        ):
            with pytest.raises(InvalidInput, match="more than the limit of 100"):
                await refused
        assert (await jobs.count_jobs())["default"] == {"available": 1}
    async with Jobs(dsn, payload_limit=3_000_000) as jobs:
        handle = await function.later(text="x" * 2_000_000)
        assert (await handle.job()).args["text"] == "x" * 2_000_000


async def test_who_runs_a_job_need_not_have_the_limit_of_who_enqueued_it(dsn: str) -> None:
    """The limit is for what comes in; what is stored runs."""
    async with Jobs(dsn, payload_limit=3_000_000) as jobs:
        handles = [
            await Takes().method.later(text="x" * 2_000_000),
            await function.later(text="x" * 2_000_000),
        ]
    async with Jobs(dsn).running() as jobs:
        for handle in handles:
            assert await jobs.handle(handle.id).result(timeout=20) is None


async def test_a_moment_may_be_written_in_any_zone(dsn: str) -> None:
    """Also where the offset is one that Postgres does not read."""
    odd = dt.timezone(dt.timedelta(hours=1, microseconds=1))
    at = dt.datetime(2030, 1, 1, tzinfo=odd)
    async with Jobs(dsn):
        handles = [
            await function.set(at=at).later(),
            *await Later.later_many([Takes(), Takes()], "call", at=at),
        ]
        assert [(await handle.job()).scheduled_at for handle in handles] == [at] * 3


@pytest.mark.failure_mode("F110")
async def test_the_last_moment_of_the_calendar_can_be_kept(dsn: str) -> None:
    """A row nobody could read would be worse than a refusal."""
    async with Jobs(dsn) as jobs:
        for at in (dt.datetime.max.replace(tzinfo=dt.UTC), dt.datetime(1, 1, 1, tzinfo=dt.UTC)):
            handle = await function.set(at=at).later()
            assert (await handle.job()).scheduled_at.year == at.year
            assert len(await jobs.list_jobs()) > 0
    connection = await asyncpg.connect(dsn)
    assert (
        await connection.fetchval("select count(*) from asyncjobs.jobs where not isfinite(scheduled_at)") == 0
    )
    await connection.close()
