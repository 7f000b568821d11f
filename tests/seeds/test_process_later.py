"""process_later: an ordinary object, now or later."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, TypeVar, get_args, get_overloads, get_type_hints
from uuid import UUID

import asyncpg
import attrs
import pytest

from asyncjobs import (
    Dependency,
    Handle,
    InvalidDefinition,
    Jobs,
    JobState,
    Later,
    WrongConnection,
    job,
)
from tests.connections import KINDS, Opens
from tests.kinds import forgotten


@attrs.frozen
class Export(Later, kind="seeds.Export", queue="exports", priority=3, max_attempts=7):
    """The posts' ordinary object."""

    tenant: str
    since: datetime
    token: UUID

    async def call(self) -> str:
        return f"{self.tenant} since {self.since.year} {self.token.int}"

    async def later_this_year(self) -> int:
        return 1

    @job
    async def only(self, stations: int) -> str:
        return f"{stations} of {self.tenant}"


EXPORT = Export("acme", datetime(2020, 1, 1, tzinfo=UTC), UUID(int=3))


@pytest.mark.seed("P1")
async def test_fields_are_inputs(running: Jobs) -> None:
    """P1 `await job.later("call")` and `await job.later.call(...)` (typed) on any attrs class, fields = inputs, no
    `initializer_arguments` by hand (attrs fields + cattrs do it).

    Instead of the proxy, which Python cannot type: `obj.later(obj.call)` (docs/concepts/differences.md).
    """
    by_name, bound = await EXPORT.later("call"), await EXPORT.later(EXPORT.call)
    assert await by_name.result(timeout=10) == await bound.result(timeout=10) == "acme since 2020 3"
    assert (await bound.job()).args == {
        "tenant": "acme",
        "since": "2020-01-01T00:00:00+00:00",
        "token": "00000000-0000-0000-0000-000000000003",
    }


@pytest.mark.seed("P7")
def test_checkers_know_what_a_handle_is_of() -> None:
    """P7 type-checker support for the proxy form: of `obj.later(obj.call)`, which stands for it. The handle is of what the method
    returns, async or sync; by name it is of anything. tests/typing holds mypy and pyright to it.
    """
    by_name, by_coroutine_function, by_function = map(get_type_hints, get_overloads(Later.later))
    assert (by_name["call"], by_name["return"]) == (str, Handle[Any])
    (given, coroutine), (of,) = (
        get_args(by_coroutine_function["call"]),
        get_args(by_coroutine_function["return"]),
    )
    assert isinstance(of, TypeVar)
    assert (given, coroutine) == ([], Coroutine[Any, Any, of])  # type: ignore[valid-type]
    assert by_coroutine_function["return"] == by_function["return"] == Handle[of]  # type: ignore[valid-type]
    assert by_function["call"] == Callable[[], of]
    assert (files("asyncjobs") / "py.typed").is_file()


class Mailer:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.seed("P2")
async def test_dependencies_are_supplied_again(dsn: str) -> None:
    """P2 non-serialisable fields declared as injected dependencies (re-supplied at run, never stored)."""
    with forgotten():

        @attrs.frozen
        class Welcome(Later, kind="seeds.Welcome"):
            user: int
            mailer: Dependency[Mailer]

            async def call(self) -> str:
                return f"{self.user} by {self.mailer.name}"

        async with Jobs(dsn, provide={Mailer: lambda: Mailer("the runner's")}).running():
            mine = Welcome(7, Mailer("mine"))
            assert await mine.call() == "7 by mine"
            handle = await mine.later("call")
            assert await handle.result(timeout=10) == "7 by the runner's"
            assert (await handle.job()).args == {"user": 7}


@pytest.mark.seed("P3")
async def test_the_same_object_now(running: Jobs) -> None:
    """P3 same object callable directly `await job.call()`."""
    before = await running.list_jobs(limit=1)
    assert await EXPORT.call() == "acme since 2020 3"
    assert await EXPORT.only(5) == "5 of acme"
    assert await running.list_jobs(limit=1) == before


@pytest.mark.seed("P4")
async def test_options_of_class_and_call(dsn: str) -> None:
    """P4 options: `later("call", run_at=, priority=, queue=, lock=…)` and class-level defaults."""
    async with Jobs(dsn):
        default = await (await EXPORT.later("call")).job()
        assert (default.queue, default.priority, default.max_attempts) == ("exports", 3, 7)
        at = datetime(2040, 1, 1, tzinfo=UTC)
        said = await (await EXPORT.later("call", at=at, priority=-1, queue="bulk", lock="tenant")).job()
        assert (said.queue, said.priority, said.max_attempts, said.scheduled_at) == ("bulk", -1, 7, at)
        soon = await (await EXPORT.later("call", delay=timedelta(hours=1))).job()
        assert soon.state is JobState.SCHEDULED


@pytest.mark.seed("P5")
@pytest.mark.parametrize("opens", KINDS.values(), ids=KINDS.keys())
async def test_it_joins_the_transaction(dsn: str, opens: Opens) -> None:
    """P5 joins ambient transaction; without one opens its own; option to demand a transaction."""
    async with Jobs(dsn) as jobs, opens(dsn) as theirs:
        own = await EXPORT.later("call")
        with pytest.raises(ZeroDivisionError):
            async with theirs.begin(), jobs.on(theirs.on):
                await EXPORT.later("call")
                raise ZeroDivisionError
        async with theirs.begin(), jobs.on(theirs.on):
            joined = await EXPORT.later("call")
        assert [each.id for each in await jobs.list_jobs()] == [joined.id, own.id]


@pytest.mark.seed("P5")
@pytest.mark.parametrize("opens", KINDS.values(), ids=KINDS.keys())
async def test_a_transaction_may_be_demanded(dsn: str, opens: Opens) -> None:
    """P5 … option to demand a transaction."""
    async with Jobs(dsn, transactional=True) as jobs, opens(dsn) as theirs:
        with pytest.raises(
            WrongConnection, match=r"transactions of their callers only .*, and none is open here"
        ):
            await EXPORT.later("call")
        async with theirs.begin():
            joined = await EXPORT.later("call", on=theirs.on)
        assert [each.id for each in await jobs.list_jobs()] == [joined.id]
    async with Jobs(dsn, transactional=True) as jobs:
        connection = await asyncpg.connect(dsn)
        try:
            with pytest.raises(WrongConnection, match="none is open here"):
                await EXPORT.later("call", on=connection)
        finally:
            await connection.close()


@pytest.mark.seed("P6")
@pytest.mark.parametrize(
    ("name", "hint"), [("cal", "did you mean 'call'"), ("no_such", "it has call, later_this_year, only")]
)
async def test_a_wrong_name_is_refused_in_the_caller(running: Jobs, name: str, hint: str) -> None:
    """P6 bare name checked at call time (AttributeError now, not in the worker)."""
    before = await running.list_jobs(limit=1)
    with pytest.raises(AttributeError, match=hint) as refused:
        await EXPORT.later(name)
    assert isinstance(refused.value, InvalidDefinition)
    assert await running.list_jobs(limit=1) == before
