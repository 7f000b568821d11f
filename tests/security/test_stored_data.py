"""Rows no enqueuer of ours would write, written by somebody who may insert; and what is bounded before it is stored."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncjobs import Constant, InvalidInput, InvalidOption, JobFailed, Jobs, JobState, Later, job
from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._engine.telling import MOST_LOGGED, MOST_TRACEBACK, MOST_WORDS
from asyncjobs.cli.words import DurationWord, MomentWord, QueuesWord
from tests.engine.running import running
from tests.security.source import modules

DEEP = "[" * 3000 + "]" * 3000

called: list[str] = []


@job(kind="test_stored:work", backoff=Constant(0.01))
async def work(name: str) -> str:
    return name


@job(kind="test_stored:raise", max_attempts=1)
async def raise_it(which: str) -> None:
    error = EVIL[which]()
    raise error


@job(kind="test_stored:give")
async def give(which: str) -> Any:
    called.append(which)
    return GIFTS[which]()


@attrs.frozen
class Service(Later, kind="test_stored:Service"):
    number: int

    async def call(self) -> str:
        return type(self).__name__

    async def _private(self) -> None:
        called.append("private")


# Nothing is made code


FORBIDDEN_MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "yaml",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "imp",
    "runpy",
    "code",
    "ctypes",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
IMPORTERS = {  # what imports by name, and whose name it is
    "cli/loading.py": "APP, which the user names",
}


@pytest.mark.security("SEC-S1")
def test_nothing_in_the_package_makes_code_of_data() -> None:
    """No pickle, no eval, no import by a name from data: APP of the command line is the only name that is imported."""
    importers = set()
    for module in modules():
        assert not {name.split(".")[0] for name in module.imports()} & FORBIDDEN_MODULES, module.path
        for name, call in module.calls():
            here = (module.path, call.lineno)
            assert name not in FORBIDDEN_CALLS, here
            assert not any(keyword.arg == "shell" for keyword in call.keywords), here
            if name.endswith("import_module"):
                importers.add(module.path)
    assert importers == set(IMPORTERS)


HOSTILE_KINDS = [
    "os:system",
    "builtins:eval",
    "test_stored_trap:spring",
    "asyncjobs._define.registry:register",
    "",
    "../x",
]


@pytest.fixture
async def table(dsn: str, anyio_backend: str) -> AsyncIterator[Callable[..., Any]]:
    """Inserts a row as somebody with the enqueuer's rights may."""
    connection = await asyncpg.connect(dsn)

    async def insert(**columns: Any) -> int:
        row = {
            "queue": "default",
            "kind": "test_stored:work",
            "args": '{"name": "x"}',
            "max_attempts": 1,
        } | columns
        casts = {
            "args": "text::jsonb",
            "meta": "text::jsonb",
            "options": "text::jsonb",
            "errors": "text::jsonb",
        }
        casts |= {"scheduled_at": "text::timestamptz", "created_at": "text::timestamptz", "tags": "text[]"}
        values = ", ".join(
            f"${n}::{casts[name]}" if name in casts else f"${n}" for n, name in enumerate(row, 1)
        )
        number: int = await connection.fetchval(
            f"insert into asyncjobs.live_jobs ({', '.join(row)}) values ({values}) returning id",
            *row.values(),
        )
        return number

    yield insert
    await connection.close()


@pytest.mark.security("SEC-S1")
async def test_a_kind_in_a_row_imports_nothing(
    dsn: str, table: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind nobody here has defined is left alone, even when a module of that name could be imported."""
    (tmp_path / "test_stored_trap.py").write_text("raise SystemExit('sprung')\ndef spring(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    ids = [await table(kind=kind) for kind in HOSTILE_KINDS]
    before = set(sys.modules)
    async with running(dsn) as jobs:
        assert await (await work.later("ok")).result(timeout=20) == "ok"
        states = [await jobs.handle(number).status() for number in ids]
    assert set(states) == {JobState.AVAILABLE}
    assert "test_stored_trap" not in set(sys.modules) - before
    assert not set(HOSTILE_KINDS) & registry.known_kinds()


ROWS: dict[str, dict[str, Any]] = {
    "levels without end": {"args": f'{{"name": {DEEP}}}'},
    "a number of 6000 digits": {"args": f'{{"name": {"1" * 6000}}}'},
    "a number beyond floats": {"args": '{"name": 1e400}'},
    "inputs that are a list": {"args": "[1]"},
    "inputs that are null": {"args": "null"},
    "another type": {"args": '{"name": {"__class__": "os:system", "_type": "x"}}'},
    "options that are a number": {"options": "5", "max_attempts": 2},
    "options that are a list": {"options": '["backoff"]', "max_attempts": 2},
    "a timeout of nonsense": {"options": '{"timeout": "x"}', "max_attempts": 2},
    "a timeout before now": {"options": '{"timeout": -1}', "max_attempts": 2},
    "a timeout beyond floats": {"options": '{"timeout": 1e400}', "max_attempts": 2},
    "a backoff of nonsense": {"options": '{"timeout": "x", "backoff": {"kind": "os:system"}}', "max_attempts": 2},
    "a method with a line break": {"kind": "test_stored:Service", "method": "x\nERROR forged", "args": '{"number": 1}'},
    "a private method": {"kind": "test_stored:Service", "method": "_private", "args": '{"number": 1}'},
    "a method of object": {"kind": "test_stored:Service", "method": "__reduce__", "args": '{"number": 1}'},
    "a path to globals": {"kind": "test_stored:Service", "method": "call.__globals__", "args": '{"number": 1}'},
    "text for a number": {"kind": "test_stored:Service", "method": "call", "args": '{"number": "1e9"}'},
    "nobody's errors": {"args": "[1]", "errors": '[1, {"error": 5}, null]'},
}  # fmt: skip


@pytest.mark.security("SEC-S2", "SEC-S1")
async def test_a_row_of_any_shape_fails_alone(dsn: str, table: Callable[..., Any]) -> None:
    """Each is failed for what is wrong with it; the jobs beside it run, and people can look at all of them."""
    called.clear()
    ids = {name: await table(**row) for name, row in ROWS.items()}
    nested = await table(meta=DEEP, tags=["x" * 1_000_000])
    async with running(dsn) as jobs:
        assert await (await work.later("ok")).result(timeout=20) == "ok"
        for name, number in ids.items():
            with pytest.raises(JobFailed):
                await jobs.handle(number).result(timeout=20)
            seen = await jobs.get_job(number)
            assert seen is not None, name
            assert seen.errors, name
        assert await jobs.handle(nested).result(timeout=20) == "x"
        assert len(await jobs.list_jobs(limit=1000)) == len(ROWS) + 2
    assert called == []


@pytest.mark.security("SEC-S2")
async def test_a_class_is_chosen_by_the_definition_never_by_the_data(
    dsn: str, table: Callable[..., Any]
) -> None:
    """Words that other serializers obey are ignored, and the object is of the class that was defined."""
    obeyed = {
        "__class__": "os:system",
        "__type__": "x",
        "_type": "Other",
        "$type": "x",
        "py/object": "os.system",
    }
    number = await table(kind="test_stored:Service", method="call", args=json.dumps({"number": 1, **obeyed}))
    async with running(dsn) as jobs:
        assert await jobs.handle(number).result(timeout=20) == "Service"


MOMENTS = ["infinity", "-infinity", "4700-01-01 BC", "0001-01-01 BC", "10000-01-01", "290000-01-01"]


@pytest.mark.security("SEC-S2", "SEC-S11")
async def test_a_row_that_would_stop_a_runner_is_refused(table: Callable[..., Any]) -> None:
    """Of a moment Python has no word for a claim could not be read; of a longer name nobody could be notified."""
    rows: list[dict[str, Any]] = [
        {column: moment} for column in ("scheduled_at", "created_at") for moment in MOMENTS
    ]
    for hostile in [*rows, {"queue": "q" * 9000, "state": 1}]:
        with pytest.raises(asyncpg.CheckViolationError):
            await table(**hostile)


@pytest.mark.security("SEC-S11")
async def test_every_moment_python_has_can_be_stored_and_read(dsn: str, table: Callable[..., Any]) -> None:
    """The first and the last are moments like others."""
    async with Jobs(dsn) as jobs:
        for moment in ("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00"):
            seen = await jobs.get_job(await table(scheduled_at=moment, state=1))
            assert seen is not None
            assert seen.scheduled_at.isoformat() == moment


# Errors and results


class Unsayable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class Odd(str):
    __slots__ = ()

    def __format__(self, _: str) -> str:
        raise ValueError("no format")


class OddlySaid(Exception):
    def __str__(self) -> str:
        return Odd("odd")


def circular() -> Exception:
    error = ValueError("round")
    error.__cause__ = error
    return error


def long_chain() -> Exception:
    error = ValueError("0")
    for number in range(2000):
        deeper = ValueError(str(number))
        deeper.__cause__ = error
        error = deeper
    return error


EVIL: dict[str, Callable[[], BaseException]] = {
    "NUL": lambda: ValueError("a\0b"),
    "surrogate": lambda: ValueError("\ud800"),
    "terminal": lambda: ValueError("\x1b]0;owned\x07\x1b[2J\r\x9b31m"),
    "huge": lambda: ValueError("x" * 20_000_000),
    "unsayable": Unsayable,
    "oddly said": OddlySaid,
    "circular": circular,
    "long chain": long_chain,
    "bytes": lambda: ValueError(b"\xff" * 1000),
    "group": lambda: ExceptionGroup("g" * 10_000, [ValueError("x" * 10_000)] * 100),
    "no args": lambda: KeyError(),
}


@pytest.mark.failure_mode("F90")
@pytest.mark.security("SEC-S8")
async def test_an_error_of_any_kind_fails_its_job_and_is_bounded(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What can be said of it is kept, within its bounds; nothing of it is lost for its size or its characters."""
    async with running(dsn) as jobs:
        handles = {which: await raise_it.later(which) for which in EVIL}
        for which, handle in handles.items():
            with pytest.raises(JobFailed):
                await handle.result(timeout=30)
            seen = await jobs.get_job(handle.id)
            assert seen is not None
            (error,) = seen.errors
            assert 0 < len(error.error) <= MOST_WORDS, which
            assert error.traceback is not None
            assert len(error.traceback) <= MOST_TRACEBACK + 20_000 * (which == "surrogate"), which
        assert await (await work.later("ok")).result(timeout=20) == "ok"
    assert max(len(record.getMessage()) for record in caplog.records) < 10_000
    logged = [logging.Formatter().format(record) for record in caplog.records]
    assert max(map(len, logged)) < 20 * MOST_LOGGED


CANARY = "c4n4ry-in-a-local"


@job(kind="test_stored:locals", max_attempts=1)
async def with_locals() -> None:
    secret = CANARY[::-1]
    if secret:
        raise ValueError("without it")


@pytest.mark.security("SEC-S8", "SEC-S6")
async def test_a_traceback_holds_no_locals(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """The values a function held when it failed are neither stored nor logged."""
    async with running(dsn) as jobs:
        handle = await with_locals.later()
        with pytest.raises(JobFailed):
            await handle.result(timeout=20)
        seen = await jobs.get_job(handle.id)
    assert "without it" in caplog.text
    assert CANARY[::-1] not in caplog.text + repr(seen)


class Unwritable:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise SystemExit("no")

    def __repr__(self) -> str:
        raise ValueError("no")


def a_circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


GIFTS: dict[str, Callable[[], Any]] = {
    "an object": object,
    "an evil object": Unwritable,
    "NUL": lambda: "\0",
    "a surrogate": lambda: "\ud800",
    "not a number": lambda: float("nan"),
    "levels": lambda: json.loads("[" * 400 + "]" * 400),
    "too much": lambda: "x" * 1_000_001,
    "a circle": a_circle,
    "bytes": lambda: b"\xff",
    "odd keys": lambda: {1: 2},
}


@pytest.mark.failure_mode("F91")
@pytest.mark.security("SEC-S11")
async def test_a_result_that_cannot_be_stored_is_not_run_again(dsn: str) -> None:
    """The job is completed once, whatever it returned, and says why the result is not there."""
    called.clear()
    async with running(dsn) as jobs:
        handles = {which: await give.later(which) for which in GIFTS}
        for which, handle in handles.items():
            seen = await jobs.wait_for_job(handle.id)
            assert (seen.state, seen.attempt) == (JobState.COMPLETED, 1), which
            assert 0 < len(seen.result_error or "") < 3000, which
    assert sorted(called) == sorted(GIFTS)


# Bounds


INPUTS: dict[str, Any] = {
    "NUL": "\0",
    "NUL in a key": {"\0": 1},
    "a surrogate": "\ud800",
    "a surrogate in a key": {"\udfff": 1},
    "not a number": float("nan"),
    "infinity": float("inf"),
    "100,000 levels": None,
    "keys that are no text": {1: 2},
    "keys of two types": {1: 2, "1": 3},
    "too large a number": 2**64,
    "an object": object(),
    "code": print,
    "bytes": b"\xff",
}


def levels(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@job(kind="test_stored:take")
async def take(value: Any) -> None: ...


@pytest.mark.failure_mode("F89")
@pytest.mark.security("SEC-S11")
@pytest.mark.parametrize("name", INPUTS)
async def test_what_cannot_be_stored_is_refused_where_it_is_enqueued(dsn: str, name: str) -> None:
    """The caller learns it, with the name of the input; nothing is stored, and the transaction goes on."""
    value = levels(100_000) if name == "100,000 levels" else INPUTS[name]
    async with Jobs(dsn) as jobs:
        async with jobs.connection() as connection, connection.transaction():
            with pytest.raises(InvalidInput, match="value"):
                await take.set(on=connection).later(value)
            assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 0
        with pytest.raises((InvalidInput, InvalidOption)):
            await take.set(meta={"x": value}).later(1)
        assert await jobs.list_jobs() == []
    while isinstance(value, list):  # or Python's stack overflows when it is freed
        (value,) = value


@pytest.mark.failure_mode("F92")
@pytest.mark.security("SEC-S11")
@pytest.mark.parametrize("size", [1_000_001, 8_000_000])
async def test_a_payload_beyond_the_limit_is_refused_at_every_entry(dsn: str, size: int) -> None:
    """Inputs, meta, one job or many: the limit is named before anything is sent."""
    large = "x" * size
    async with Jobs(dsn) as jobs:
        for enqueue in (
            lambda: take.later(large),
            lambda: take.set(meta={"x": large}).later(1),
            lambda: jobs.enqueue_many([take.prepare(1), take.prepare(large)]),
        ):
            with pytest.raises(InvalidInput, match="limit"):
                await enqueue()
        assert await jobs.list_jobs() == []


@pytest.mark.security("SEC-S11")
@pytest.mark.parametrize(
    "options",
    [
        {"tags": ["x" * 121]},
        {"tags": ["x"] * 101},
        {"tags": [""]},
        {"tags": ["\0"]},
        {"queue": "x" * 121},
        {"queue": ""},
        {"queue": " "},
        {"queue": 5},
        {"priority": 2**15},
        {"priority": 1.5},
        {"max_attempts": 0},
        {"max_attempts": 2**15},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"delay": float("inf")},
        {"delay": 1e300},
        {"delay": -1},
    ],
    ids=lambda options: ascii(options)[:40],
)
async def test_options_are_bounded_where_they_are_given(dsn: str, options: dict[str, Any]) -> None:
    """Each is refused in the caller, and nothing is stored."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidOption):
            await take.set(**options).later(1)
        assert await jobs.list_jobs() == []


SLOW: dict[str, Callable[[str], Any]] = {
    "duration": lambda text: DurationWord().convert(text, None, None),
    "moment": lambda text: MomentWord().convert(text, None, None),
    "queues": lambda text: QueuesWord().convert(text, None, None),
    "input": lambda text: Codec(10**9).encode({"x": text}, {"x": str}, what="x"),
    "inputs": lambda text: Codec(10**9).encode({"x": [text, 1e16]}, {}, what="x"),
}
LONG = 50_000
PATTERNS = [
    "1" * LONG, "1s" * LONG, "1." * LONG, "e" * LONG, "1e" * LONG, "\\" * LONG, '"' * LONG, "\\u0000" * LONG,
    "e1" * LONG, "a:" * LONG, "," * LONG, " " * LONG, "e+" + "1" * LONG + "!",
]  # fmt: skip


@pytest.mark.security("SEC-S11")
@pytest.mark.parametrize("what", SLOW)
def test_no_text_makes_it_slow(what: str) -> None:
    """Texts made to lead regular expressions astray are read, or refused, in the time others are: of the processor's."""
    began = time.process_time()
    for pattern in PATTERNS:
        try:
            SLOW[what](pattern)
        except Exception:
            continue
    assert time.process_time() - began < 20  # a quadratic one takes minutes


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
@pytest.mark.failure_mode("F89")
@pytest.mark.security("SEC-S11")
def test_any_data_is_stored_as_it_is_or_refused(value: Any) -> None:
    """Never another error, and never something else."""
    codec = Codec()
    try:
        text = codec.encode({"value": value}, {"value": Any}, what="it")
    except InvalidInput:
        return
    assert codec.decode(text, {"value": Any}, what="it") == {"value": value}
