"""Jobs that run at once, in their caller: per class, per environment, or as a function says."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import attrs
import pytest

from asyncjobs import (
    Cancel,
    Discard,
    InvalidInput,
    InvalidOption,
    JobNotFound,
    Jobs,
    JobSkipped,
    JobState,
    Later,
    MisusedJobs,
    NewJob,
    Snooze,
    current_job,
    job,
)
from tests.connections import KINDS, Opens

said: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    said.clear()


@attrs.frozen
class Now(Later, kind="seeds.Now", run="now"):
    """Runs in its caller."""

    word: str = "done"

    async def needed(self) -> bool:
        return self.word != "unneeded"

    async def call(self) -> str:
        said.append((current_job().id, threading.current_thread().name))
        match self.word:
            case "raises":
                raise OSError("broke")
            case "snooze":
                raise Snooze(3600)
            case "cancel":
                raise Cancel("not ours")
            case "discard":
                raise Discard
        return self.word

    def in_a_thread(self) -> str:
        said.append((current_job().id, threading.current_thread().name))
        return self.word


@job(kind="seeds.now_or_later", max_attempts=1)
async def now_or_later(n: int) -> int:
    said.append(n)
    return n


@pytest.mark.seed("D3", "Q19")
@pytest.mark.parametrize("method", ["call", "in_a_thread"])
async def test_a_class_runs_at_once(dsn: str, method: str) -> None:
    """Q19 run_synchronously per class. D3 `delay_jobs=False` runs at once and returns *a job*, not the result."""
    async with Jobs(dsn) as jobs:
        handle = await Now().later(method)
        assert len(said) == 1
        assert said[0][0] is None
        assert (said[0][1] == threading.current_thread().name) == (method == "call")
        stored = await handle.job()
        assert (stored.state, stored.attempt, stored.args) == (JobState.COMPLETED, 1, {"word": "done"})
        assert await handle.result(timeout=10) == "done"
        assert handle.created
        assert [each.id for each in await jobs.list_jobs()] == [handle.id]
        assert await jobs.retry(handle.id)


@pytest.mark.seed("D3")
async def test_an_environment_runs_everything_at_once(dsn: str) -> None:
    """D3 `delay_jobs=False` …; callable form per job."""
    async with Jobs(dsn, run="now"):
        assert await (await now_or_later.later(1)).status() is JobState.COMPLETED
        assert await (await now_or_later.set(run="later").later(2)).status() is JobState.AVAILABLE
        assert await (await now_or_later.set(delay=60).later(3)).status() is JobState.SCHEDULED
    seen: list[NewJob] = []

    def small(job: NewJob) -> str:
        seen.append(job)
        return "now" if job.priority < 0 else "later"

    async with Jobs(dsn, run=small) as jobs:  # type: ignore[arg-type]
        many = [now_or_later.set(priority=n).prepare(n) for n in (-1, 1, -2, 2)]
        handles = await jobs.enqueue_many(many)
        assert [await handle.status() for handle in handles] == ["completed", "available"] * 2
        assert [job.kind for job in seen] == ["seeds.now_or_later"] * 4
    assert said == [1, -1, -2]
    with pytest.raises(InvalidOption, match="run='never' is not when a job runs"):
        Jobs(dsn, run="never")  # type: ignore[arg-type]
    async with Jobs(dsn, run=lambda job: True):  # type: ignore[arg-type, return-value]
        with pytest.raises(InvalidOption, match="a function of the job returns 'later' or 'now'"):
            await now_or_later.later(1)


@pytest.mark.seed("D3", "Q19")
async def test_what_it_raises_is_raised_there(dsn: str) -> None:
    """Q19 …: to its caller, and nothing is stored, as nothing would be tried again."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(OSError, match="broke"):
            await Now("raises").later("call")
        with pytest.raises(InvalidInput):
            await Now(3).later("call")  # type: ignore[arg-type]
        assert await jobs.list_jobs() == []


@pytest.mark.seed("D3")
async def test_verbs_mean_what_they_mean(dsn: str) -> None:
    """D3 … returns *a job*: skipped, cancelled, forgotten, or waiting for the time it put itself off to."""
    async with Jobs(dsn):
        skipped = await Now("unneeded").later("call")
        with pytest.raises(JobSkipped):
            await skipped.result(timeout=10)
        assert await (await Now("cancel").later("call")).status() is JobState.CANCELLED
        assert await (await Now("snooze").later("call")).status() is JobState.SCHEDULED
        with pytest.raises(JobNotFound):
            await (await Now("discard").later("call")).status()


@pytest.mark.seed("D3")
@pytest.mark.parametrize("opens", KINDS.values(), ids=KINDS.keys())
async def test_it_is_stored_with_the_callers_data(dsn: str, opens: Opens) -> None:
    """D3 … returns *a job*, which is there when the caller's transaction commits; on every connection."""
    async with Jobs(dsn) as jobs, opens(dsn) as theirs:
        with pytest.raises(ZeroDivisionError):
            async with theirs.begin():
                gone = await Now().later("call", on=theirs.on)
                raise ZeroDivisionError
        async with theirs.begin():
            handle = await Now().later("call", on=theirs.on)
        assert await handle.result(timeout=10) == "done"
        with pytest.raises(JobNotFound):
            await gone.status()
        assert len(await jobs.list_jobs()) == 1


@job(kind="seeds.enqueues_inside")
async def enqueues_inside(when: str, fails: bool = False) -> list[Any]:
    async with current_job().transaction():
        handle = await now_or_later.set(run=when).later(7)  # type: ignore[arg-type]
        said.append(handle.id)
        current_job().result = [current_job().id, handle.id]
        if fails:
            raise OSError("broke")
    return []


@pytest.mark.seed("T10")
@pytest.mark.parametrize("when", ["later", "now"])
async def test_later_inside_a_job(running: Jobs, when: str) -> None:
    """T10 `later` while already inside a job: default *enqueue* (transactional), option to run inline as TResque does."""
    outer = await enqueues_inside.set(max_attempts=1).later(when)
    own, inner = await outer.result(timeout=10)
    assert own == outer.id
    assert await running.handle(inner).result(timeout=10) == 7
    inline = said.index(7) < said.index(inner)
    assert inline == (when == "now")
    said.clear()
    with pytest.raises(Exception, match="broke"):
        await (await enqueues_inside.set(max_attempts=1).later(when, True)).result(timeout=10)
    (undone,) = (each for each in said if each != 7)
    assert await running.get_job(undone) is None  # rolled back with it


@attrs.frozen
class Charges(Later, kind="seeds.ChargesNow", run="now", timeout=0.05):
    how: str

    async def call(self) -> int:
        if self.how == "too long":
            await asyncio.Event().wait()
        if self.how == "transaction":
            async with current_job().transaction() as connection:
                current_job().result = await connection.fetchval("select 7")
        if self.how == "complete":
            await current_job().complete(on=None, result=8)
        if self.how == "settle":
            await current_job().settle(Cancel("settled"), on=None)
        return 0


@pytest.mark.seed("D3")
async def test_the_same_method_runs_both_ways(dsn: str) -> None:
    """D3 runs at once: its own transaction, its completion there, its timeout."""
    async with Jobs(dsn):
        assert await (await Charges("transaction").later("call")).result(timeout=10) == 7
        assert await (await Charges("complete").later("call")).result(timeout=10) == 8
        assert await (await Charges("settle").later("call")).status() is JobState.CANCELLED
        with pytest.raises(TimeoutError, match="took longer than its timeout of"):
            await Charges("too long").later("call")
        assert current_job().id is None
        here = asyncio.current_task()
        assert here is not None
        assert here.cancelling() == 0  # who timed it out asked no more of its caller


@job(kind="seeds.puts_itself_off", unique=True)
async def puts_itself_off(n: int) -> None:
    raise Snooze(3600)


async def test_what_is_put_off_is_unique_all_the_same(dsn: str) -> None:
    """Its handle is of the one that waits already, and the caller's transaction goes on."""
    async with Jobs(dsn) as jobs:
        waiting = await puts_itself_off.set(run="later").later(1)
        async with jobs.connection() as connection, connection.transaction():
            handle = await puts_itself_off.set(run="now", on=connection).later(1)
            assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 1
        assert handle.id == waiting.id
        assert (await puts_itself_off.set(run="now").later(1)).id == waiting.id


@attrs.frozen
class EnqueuesNow(Later, kind="seeds.EnqueuesNow", run="now"):
    async def call(self) -> int:
        return (await now_or_later.later(7)).id


@pytest.mark.seed("D3", "T10")
async def test_what_it_enqueues_is_its_callers_too(dsn: str) -> None:
    """T10 … (transactional): `later` inside a job that runs now joins the transaction that one was enqueued on."""
    async with Jobs(dsn) as jobs, KINDS["session"](dsn) as theirs:
        with pytest.raises(ZeroDivisionError):
            async with theirs.begin():
                await EnqueuesNow().later("call", on=theirs.on)
                raise ZeroDivisionError
        assert await jobs.list_jobs() == []
        async with theirs.begin():
            handle = await EnqueuesNow().later("call", on=theirs.on)
        assert await jobs.handle(await handle.result(timeout=10)).status() is JobState.AVAILABLE


def test_it_needs_an_event_loop(dsn: str) -> None:
    """`later_sync` on a sync connection has none."""
    import psycopg

    with psycopg.connect(dsn) as connection, pytest.raises(MisusedJobs, match="needs an event loop"):
        Now().later_sync("call", on=connection, jobs=Jobs(dsn))


@pytest.mark.seed("Q19")
async def test_in_a_schema_of_another_name(database: str) -> None:
    """Q19 …: whose ids come from its own sequence."""
    jobs = Jobs(database, schema="another schema")
    await jobs.migrate()
    async with jobs:
        first, second = await Now().later("call"), await now_or_later.later(1)
        assert second.id == first.id + 1
        assert await first.result(timeout=10) == "done"
