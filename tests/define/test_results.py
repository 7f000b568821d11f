"""A result comes back as the definition declares it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import attrs
import pytest

from asyncjobs import (
    InvalidDefinition,
    JobFailed,
    JobNotFound,
    Jobs,
    Later,
    RemoteTraceback,
    ResultNotStored,
    job,
)
from asyncjobs._define import registry
from tests.kinds import forgotten


class Colour(Enum):
    RED = "red"


@attrs.frozen
class Report:
    id: UUID
    at: dt.datetime
    price: Decimal
    colour: Colour
    parts: tuple[Report, ...] = ()


REPORT = Report(UUID(int=7), dt.datetime(2024, 5, 1, tzinfo=dt.UTC), Decimal("1.10"), Colour.RED)


@job
async def report() -> Report:
    return attrs.evolve(REPORT, parts=(REPORT,))


@job
async def moment() -> dt.datetime:
    return REPORT.at


@job
def optional() -> UUID | None:
    return REPORT.id


@job
async def nothing() -> None: ...


@job
async def undeclared():
    return {"a": [1, 2.5, None, "x"]}


@job
async def many() -> list[Report]:
    return [REPORT]


@job
async def number() -> float:
    return 3  # an int may stand for a float


@attrs.frozen
class Makes(Later):
    async def call(self) -> Report:
        return REPORT

    @job
    async def typed(self, n: int) -> tuple[int, Report]:
        return n, REPORT

    async def is_not_what_it_says(self) -> Report:
        return "no report"  # type: ignore[return-value]

    async def lives_here(self) -> Any:
        return object()

    async def is_not_a_number(self) -> float:
        return float("nan")

    async def is_naive(self) -> dt.datetime:
        return dt.datetime.fromisoformat("2024-05-01")

    async def holds_a_nul(self) -> str:
        return "a\0b"

    async def is_too_large(self) -> str:
        return "x" * 1_000_001

    async def returns_although_declared_none(self) -> None:
        return 3  # type: ignore[return-value]

    async def cannot_say(self) -> Any:
        return Unspeakable()

    async def fails(self) -> None:
        raise LookupError("no such tenant")


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("\0\ud800")


@pytest.mark.parametrize("function", [report, moment, optional, nothing, undeclared, many, number])
async def test_a_typed_result_comes_back_structured(running: Jobs, function: Any) -> None:
    """attrs classes, datetimes, UUIDs: by the handle of `later` and by one made from the id alone."""
    now = function()
    now = now if function is optional else await now
    handle = await function.later()
    assert await handle.result(timeout=10) == now
    again = running.handle(handle.id)
    assert await again.result(timeout=10) == now
    assert type(await again.result()) is (float if function is number else type(now))


async def test_results_of_methods_are_read_by_their_method(running: Jobs) -> None:
    """A class has as many types of results as it has methods."""
    handle = await Makes().typed.later(3)
    assert await running.handle(handle.id).result(timeout=10) == (3, REPORT)
    handle_of_call = await Makes().later("call")
    assert await running.handle(handle_of_call.id).result(timeout=10) == REPORT


async def test_who_does_not_know_the_kind_reads_plain_data(running: Jobs) -> None:
    """A process that only looks on, or one whose class no longer has the method."""
    handle = await Makes().later("call")
    await handle.result(timeout=10)
    plain = {
        "id": str(REPORT.id),
        "at": "2024-05-01T00:00:00+00:00",
        "price": "1.10",
        "colour": "red",
        "parts": [],
    }
    with forgotten():
        kind = (await handle.job()).kind
        del registry._kinds[kind]
        assert await running.handle(handle.id).result() == plain

        @attrs.frozen
        class Poorer(Later, kind=kind):
            pass

        assert await running.handle(handle.id).result() == plain


@pytest.mark.failure_mode("F91")
@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            "is_not_what_it_says",
            r"the result of Makes\.is_not_what_it_says cannot be stored: value \(declared Report\) is 'no report'",
        ),
        ("lives_here", "cannot be stored: value .* is <object object"),
        ("is_not_a_number", "for which JSON has no word"),
        ("is_naive", "has no time zone"),
        ("holds_a_nul", "NUL character"),
        ("is_too_large", "more than the limit of 1,000,000"),
        ("returns_although_declared_none", r"is 3, "),
        ("cannot_say", "Unspeakable"),
    ],
)
async def test_a_result_that_cannot_be_stored_never_reruns_the_job(
    running: Jobs, method: str, words: str
) -> None:
    """It is completed, and `result` says why there is nothing to give."""
    handle = await Makes().later(method)
    with pytest.raises(ResultNotStored, match=words) as refusal:
        await handle.result(timeout=10)
    assert str(refusal.value).startswith(f"job {handle.id} completed, but its result could not be stored: ")
    stored = await handle.job()
    assert (stored.state, stored.attempt, stored.result, stored.errors) == ("completed", 1, None, ())


async def test_a_failure_brings_its_traceback(running: Jobs) -> None:
    """The remote one, as the cause."""
    handle = await Makes().later("fails", max_attempts=1)
    with pytest.raises(JobFailed, match=r"failed at attempt 1: LookupError: no such tenant") as failure:
        await handle.result(timeout=10)
    assert isinstance(failure.value.__cause__, RemoteTraceback)
    assert "in fails\n" in str(failure.value.__cause__)


async def test_a_result_written_by_older_code_says_what_does_not_fit(running: Jobs) -> None:
    """When the declaration has changed since, the reader learns what is stored."""
    with forgotten():

        @job(kind="test_results:changing")
        async def changing() -> str:
            return "three"

        handle = await changing.later()
        await handle.result(timeout=10)
    with forgotten():

        @job(kind="test_results:changing")
        async def changed() -> int:
            return 3

        with pytest.raises(
            ValueError, match="stored value does not fit its declaration int: .*Stored is 'three'"
        ):
            await running.handle(handle.id).result()


async def test_a_handle_of_no_job_says_so(running: Jobs) -> None:
    """For each thing one may ask of it."""
    handle = running.handle(10**12)
    for ask in (handle.status, handle.job, handle.result, handle.cancel):
        with pytest.raises(JobNotFound, match="no job 1000000000000 can be seen"):
            await ask()
    assert repr(handle) == "<Handle of job 1000000000000>"


async def test_waiting_has_an_end(running: Jobs) -> None:
    """A timedelta or seconds; negative ones are refused."""
    handle = await nothing.set(delay=60).later()
    for timeout in (0.01, dt.timedelta(milliseconds=10)):
        with pytest.raises(TimeoutError):
            await handle.result(timeout=timeout)
    with pytest.raises(ValueError, match="timeout=-1 is negative"):
        await handle.result(timeout=-1)
    assert await handle.cancel() == "cancelled"


def test_an_unresolvable_result_is_named() -> None:
    """Its annotation is read like any other."""

    @job(kind="test_results:lost")
    async def lost() -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidDefinition, match="lost cannot be resolved: name 'Nowhere' is not defined"):
        lost.prepare()
