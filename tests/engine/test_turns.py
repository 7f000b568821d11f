"""`fair=`: the keys of a queue take turns, so that one tenant's many jobs do not starve another's few."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import InvalidDefinition, InvalidOption, Jobs, JobState, Later, Lock, job
from tests.engine.running import running
from tests.waiting import eventually_async

KIND = "test_turns:"

order: list[str] = []
gate: asyncio.Event
most = now = 0


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate, most, now
    order.clear()
    gate = asyncio.Event()
    most = now = 0


@attrs.frozen
class Export(Later, fair="tenant", kind=KIND + "export"):
    tenant: str

    @property
    def firm(self) -> str:
        return "theirs"

    async def call(self) -> None:
        order.append(self.tenant)
        await asyncio.sleep(0.02)  # so long that none are fetched ahead

    async def quickly(self) -> None:
        order.append(self.tenant)

    async def fails_once(self) -> None:
        order.append(self.tenant)
        if len(order) == 1:
            raise ValueError("once")


@attrs.frozen
class Bill(Later, lock=Lock("tenant"), fair="tenant", kind=KIND + "bill"):
    tenant: str

    async def call(self) -> None:
        global now, most
        order.append(self.tenant)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1


@job(kind=KIND + "mail", fair="account")
async def mail(account: str) -> None:
    order.append(account)


@job(kind=KIND + "plain")
async def plain() -> None: ...


@job(kind=KIND + "endless")
async def endless() -> None:
    if not gate.is_set():
        await endless.later()


async def test_a_few_begin_soon_beside_any_number_of_anothers(dsn: str) -> None:
    """Ten of a tenant that comes when another has hundreds waiting: every second start is one of theirs."""
    async with running(dsn, slots=2) as jobs:
        await jobs.enqueue_many(Export("many").prepare("call") for _ in range(400))
        await eventually_async(lambda: begun(10))
        handles = await jobs.enqueue_many(Export("few").prepare("call") for _ in range(10))
        since = len(order)
        for handle in handles:
            await handle.result(timeout=30)
    theirs = [nth for nth, tenant in enumerate(order) if tenant == "few"]
    assert len(theirs) == 10
    assert theirs[-1] < since + 2 * 10 + 20


async def begun(count: int) -> bool:
    return len(order) >= count


async def test_all_run_by_wake_ups_alone(dsn: str) -> None:
    """Three runners and no poll: of ten tenants with jobs of two kinds everything is done."""
    async with running(dsn, slots=3) as jobs, Jobs(dsn, slots=3).running(), Jobs(dsn, slots=3).running():
        handles: list[Any] = []
        for number in range(10):
            handles += await jobs.enqueue_many(Export(f"{number}").prepare("quickly") for _ in range(8))
            handles += await jobs.enqueue_many(mail.prepare(f"{number}") for _ in range(4))
        for handle in handles:
            await handle.result(timeout=30)
        one = await Export("late").later("quickly", jobs=jobs)
        await one.result(timeout=20)
    assert len(order) == 121


async def test_a_retry_waits_for_its_turn_again(dsn: str) -> None:
    """And has it."""
    async with running(dsn):
        handle = await Export("a").later("fails_once", backoff=0)
        await handle.result(timeout=20)
    assert order == ["a", "a"]


async def test_with_a_lock_each_waits_for_both(dsn: str) -> None:
    """A tenant's jobs one at a time, and in turns with those of others."""
    async with running(dsn, slots=4) as jobs:
        handles = await jobs.enqueue_many(Bill(tenant).prepare("call") for tenant in "aaaaaabb")
        for handle in handles:
            await handle.result(timeout=20)
    assert sorted(order) == list("aaaaaabb")


async def test_without_turns_no_statement_more_is_sent(dsn: str) -> None:
    """Jobs that have none cost what they cost, and so does a call that says fair=None."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("drop function asyncjobs.deal_turns")
    await connection.close()
    async with running(dsn) as jobs:
        for handle in [await plain.later() for _ in range(20)]:
            await handle.result(timeout=20)
        handle = await Export("a").later("quickly", fair=None)
        await handle.result(timeout=20)
        found = await jobs.get_job(handle.id)
        assert found is not None and found.state is JobState.COMPLETED


async def test_it_has_its_turn_beside_jobs_that_never_end(dsn: str) -> None:
    """A runner whose slot is always wanted looks for lines all the same."""
    async with running(dsn, slots=1):
        for _ in range(3):
            await endless.later()
        handle = await Export("a").later("quickly", priority=-1)
        await handle.result(timeout=20)
        gate.set()


async def test_what_a_call_says_counts_more(dsn: str) -> None:
    """Another attribute than the class named, by which two tenants share a turn."""
    async with running(dsn, slots=1) as jobs:
        await jobs.pause("default")
        handles = [
            await Export(tenant).later("quickly", fair=fair)
            for tenant, fair in (("a", "firm"), ("b", "firm"), ("c", "firm"), ("d", "tenant"))
        ]
        await jobs.resume("default")
        for handle in handles:
            await handle.result(timeout=20)
    assert order.index("d") < order.index("b")
    assert [each for each in order if each != "d"] == ["a", "b", "c"]


async def test_jobs_in_line_of_an_unknown_kind_are_told_of(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As those that lie ready are: this process leaves them to one that knows them."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "insert into asyncjobs.live_jobs (queue, kind, args, state, fair_key)"
        " values ('default', 'test_turns:unknown', '{}', 5, 'a')"
    )
    await connection.close()
    with caplog.at_level(logging.WARNING, "asyncjobs"):
        async with running(dsn):
            await (await plain.later()).result(timeout=20)
            await eventually_async(lambda: said(caplog))


async def said(caplog: pytest.LogCaptureFixture) -> bool:
    return "'test_turns:unknown'" in caplog.text


# What is refused


def test_a_name_that_is_no_input_is_refused_where_it_is_written() -> None:
    """Of a class, and of a function."""
    with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):

        @attrs.frozen
        class Wrong(Later, fair="tennant", kind=KIND + "wrong"):
            tenant: str

            async def call(self) -> None: ...

    with pytest.raises(InvalidDefinition, match="fair="):

        @job(kind=KIND + "wrong function", fair="users")
        async def wrong(user: int) -> None: ...


@pytest.mark.parametrize(
    ("fair", "words"),
    [(True, "turn of its own"), (5, "fair=5"), ((), "fair="), ("", "fair="), (("a", "a"), "twice")],
)
def test_what_makes_no_turn_is_refused(fair: Any, words: str) -> None:
    """Where it is written."""
    with pytest.raises(InvalidOption, match=words):
        job(kind=KIND + "never", fair=fair)(lambda: None)


async def test_a_wrong_name_in_later_is_refused_in_the_caller(dsn: str) -> None:
    """Nothing is stored."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):
            await Export("acme").later("call", fair="tennant")
        assert await jobs.count_jobs() == {}
