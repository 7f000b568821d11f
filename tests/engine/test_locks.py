"""`lock=`: of the jobs that are alike, so many run at a time, and the others wait for nothing that costs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import InvalidDefinition, InvalidOption, Jobs, JobState, Later, Lock, current_job, job
from asyncjobs._engine import grip
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.locks import Acquired, acquire_locks
from asyncjobs._store.session import Session
from tests.running import running
from tests.waiting import eventually_async

KIND = "test_locks:"

gates: dict[str, asyncio.Event] = {}
now: Counter[str] = Counter()
most: Counter[str] = Counter()
order: list[str] = []


@pytest.fixture(autouse=True)
def afresh() -> None:
    gates.clear()
    now.clear()
    most.clear()
    order.clear()


def gate(name: str) -> asyncio.Event:
    return gates.setdefault(name, asyncio.Event())


async def inside(key: str, name: str = "", *, gated: bool = False) -> None:
    now[key] += 1
    most[key] = max(most[key], now[key])
    order.append(name)
    try:
        if gated:
            await gate(name).wait()
        else:
            await asyncio.sleep(0.001)
    finally:
        now[key] -= 1


@attrs.frozen
class Bill(Later, lock="tenant", kind=KIND + "bill"):
    tenant: str
    name: str = ""
    gated: bool = False

    async def call(self) -> None:
        await inside(self.tenant, self.name, gated=self.gated)

    async def fails_once(self) -> None:
        order.append(f"{self.name} {current_job().attempt}")
        if current_job().attempt == 1:
            raise ValueError("once")

    async def in_a_transaction(self) -> None:
        await inside(self.tenant, self.name, gated=self.gated)
        async with current_job().transaction() as connection:
            await connection.execute("select 1")


@attrs.frozen
class Export(Later, lock=Lock("tenant", namespace="accounts", slots=2), kind=KIND + "export"):
    tenant: str
    name: str = ""

    async def call(self) -> None:
        await inside("accounts", self.name, gated=bool(self.name))


@attrs.frozen
class Both(Later, lock="tenant", unique="tenant", kind=KIND + "both"):
    tenant: str
    name: str

    async def call(self) -> None:
        await inside(self.tenant, self.name, gated=True)


@attrs.frozen
class Import(Later, lock=Lock("tenant", namespace="accounts", slots=2), kind=KIND + "import"):
    user: str

    @property
    def tenant(self) -> str:
        return self.user.partition("@")[2]

    async def call(self) -> None:
        await inside("accounts")


@job(kind=KIND + "mail", lock=("user", "locale"))
async def mail(user: int, text: str = "", locale: str = "en") -> None:
    await inside(f"{user} {locale}", text)


@job(kind=KIND + "plain")
async def plain(name: str) -> None:
    await inside("plain", name)


async def state_of(jobs: Jobs, job_id: int) -> JobState | None:
    found = await jobs.get_job(job_id)
    return None if found is None else found.state


async def no_locks_left(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("select not exists (select from asyncjobs.locks)"))
    finally:
        await connection.close()


@pytest.mark.seed("T5")
async def test_the_loser_waits_at_no_cost_and_follows_at_once(dsn: str) -> None:
    """T5: "loser waits without requeue churn and without consuming a slot or an attempt".

    With one slot, another job runs beside the holder's waiter; with no poll, the waiter begins when the holder ends.
    """
    async with running(dsn, slots=2) as jobs:
        first = await Bill("acme", "first", gated=True).later("call")
        await eventually_async(lambda: began("first"))
        second = await Bill("acme", "second").later("call")
        await eventually_async(lambda: is_(jobs, second.id, JobState.BLOCKED))
        await (await plain.later("beside")).result(timeout=20)
        blocked = await jobs.get_job(second.id)
        assert blocked is not None and (blocked.attempt, blocked.runner, blocked.started_at) == (
            0,
            None,
            None,
        )
        gate("first").set()
        await second.result(timeout=20)
        await first.result(timeout=20)
        done = await jobs.get_job(second.id)
        assert done is not None and done.attempt == 1
    assert order == ["first", "beside", "second"]
    assert most["acme"] == 1
    assert await no_locks_left(dsn)


async def began(name: str) -> bool:
    return name in order


async def until_blocked(jobs: Jobs, job_id: int) -> None:
    await eventually_async(lambda: is_(jobs, job_id, JobState.BLOCKED))


async def is_(jobs: Jobs, job_id: int, state: JobState) -> bool:
    return await state_of(jobs, job_id) is state


@pytest.mark.seed("T5")
async def test_across_classes_and_processes_at_most_n(dsn: str) -> None:
    """T5: "`worker_lock` … across classes through `lock_namespace`": two kinds, one of which computes the attribute, on three runners."""
    async with running(dsn) as one, Jobs(dsn).running(), Jobs(dsn).running():
        handles = [await Export("acme", name).later("call", jobs=one) for name in ("first", "second")]
        await eventually_async(lambda: began("first"))
        await eventually_async(lambda: began("second"))  # beside the first
        for number in range(30):
            each = Export("acme") if number % 2 else Import("ann@acme")
            handles.append(await each.later("call", jobs=one))
        await eventually_async(lambda: is_(one, handles[-1].id, JobState.BLOCKED))
        gate("first").set()
        gate("second").set()
        for handle in handles:
            await handle.result(timeout=30)
    assert most["accounts"] == 2
    assert await no_locks_left(dsn)


async def test_a_killed_runners_lock_is_freed(dsn: str) -> None:
    """T5: "freed on crash within rescue time": the dead one's job waits again, and who waited has the lock."""
    connection = await asyncpg.connect(dsn)
    async with Jobs(dsn):
        held = await Bill("acme", "held").later("call", delay=3600)
    await connection.execute(
        "insert into asyncjobs.runners (incarnation, lock_key, holds_lock, lease, name, version) "
        "values (5, 5, false, interval '1 h', 'dead', '0')"
    )
    await connection.execute(
        "update asyncjobs.live_jobs set state = 0, runner = 5, token = 1, attempt = 1, started_at = now() where id = $1",
        held.id,
    )
    await connection.execute(
        "insert into asyncjobs.locks (key, slot, job, token) "
        "select lock_key, 1, id, token from asyncjobs.live_jobs where id = $1",
        held.id,
    )
    async with running(dsn, vigilance=Vigilance(look_every=0.05, settle=0.0)) as jobs:
        waiting = await Bill("acme", "waiting").later("call")
        await until_blocked(jobs, waiting.id)
        await connection.execute(
            "update asyncjobs.runners set seen_at = now() - interval '2 h' where incarnation = 5"
        )
        await waiting.result(timeout=20)
        await jobs.handle(held.id).result(timeout=20)
    await connection.close()
    assert most["acme"] == 1
    assert await no_locks_left(dsn)


@pytest.mark.seed("T5")
async def test_waiters_begin_in_their_order(dsn: str) -> None:
    """T5: "FIFO among waiters by priority"."""
    async with running(dsn) as jobs:
        await Bill("acme", "first", gated=True).later("call")
        await eventually_async(lambda: began("first"))
        handles = [
            await Bill("acme", name).later("call", priority=priority)
            for name, priority in (("c", 0), ("d", 0), ("e", 3), ("b", -1), ("a", -2))
        ]
        for handle in handles:
            await until_blocked(jobs, handle.id)
        gate("first").set()
        for handle in handles:
            await handle.result(timeout=20)
    assert order == ["first", "a", "b", "c", "d", "e"]


@pytest.mark.seed("T5")
async def test_who_takes_too_long_lets_go(dsn: str) -> None:
    """T5: "FIFO among waiters by priority; timeout": a lock has none of its own, as it ends with its job; that of the job ends it."""
    async with running(dsn) as jobs:
        first = await Bill("acme", "first", gated=True).later("call", timeout=0.2, max_attempts=1)
        await eventually_async(lambda: began("first"))
        second = await Bill("acme", "second").later("call")
        await second.result(timeout=20)
        assert await state_of(jobs, first.id) is JobState.FAILED
    assert await no_locks_left(dsn)


@pytest.mark.seed("T5")
async def test_a_failed_attempt_lets_go_until_its_next(dsn: str) -> None:
    """While a job waits for its retry, others of its key run; its next attempt asks for the lock again."""
    async with running(dsn) as jobs:
        failing = await Bill("acme", "failing").later("fails_once", max_attempts=2)
        await eventually_async(lambda: is_(jobs, failing.id, JobState.RETRYABLE))
        await (await Bill("acme", "between").later("call")).result(timeout=20)
        assert await jobs.retry(failing.id)
        await failing.result(timeout=20)
    assert order == ["failing 1", "between", "failing 2"]
    assert await no_locks_left(dsn)


@pytest.mark.seed("T6")
async def test_a_lock_of_one_call(dsn: str) -> None:
    """T6: "per-enqueue dynamic locks (`queue_lock_key=`, `worker_lock_key=`)": `later` may name another lock than the class, or none."""
    async with running(dsn) as jobs:
        await Bill("acme", "first", gated=True).later("call", lock=Lock(key="of my own"))
        await eventually_async(lambda: began("first"))
        same = await plain.set(lock=Lock(key="of my own", namespace=KIND + "bill")).later("same key")
        await eventually_async(lambda: is_(jobs, same.id, JobState.BLOCKED))
        await (await Bill("acme", "by the class").later("call")).result(timeout=20)
        await (await Bill("acme", "by none").later("call", lock=None)).result(timeout=20)
        gate("first").set()
        await same.result(timeout=20)


@pytest.mark.seed("T6")
async def test_both_locks_on_one_job(dsn: str) -> None:
    """T6: "both locks on one job": one runs, one waits for it, and a third is the one that waits: it has not started yet."""
    async with running(dsn) as jobs:
        first = await Both("acme", "first").later("call")
        await eventually_async(lambda: began("first"))
        second = await Both("acme", "second").later("call")
        await until_blocked(jobs, second.id)
        third = await Both("acme", "third").later("call")
        assert (second.created, third.created, third.id) == (True, False, second.id)
        gate("first").set()
        gate("second").set()
        await first.result(timeout=20)
        await second.result(timeout=20)
        assert (await Both("acme", "fourth").later("call", lock=None)).created
        gate("fourth").set()
    assert order[:2] == ["first", "second"]


async def test_arguments_of_functions_make_keys(dsn: str) -> None:
    """What was left out counts as its default; another value is another key."""
    async with running(dsn):
        handles = [await mail.later(1, str(number)) for number in range(6)]
        handles += [await mail.later(1, str(number), locale="de") for number in range(6)]
        for handle in handles:
            await handle.result(timeout=20)
    assert (most["1 en"], most["1 de"]) == (1, 1)


async def test_one_that_completes_in_its_own_transaction_hands_over(dsn: str) -> None:
    """When that commits, in whatever order waiting and ending meet."""
    async with running(dsn):
        handles = [await Bill("acme", str(number)).later("in_a_transaction") for number in range(12)]
        for handle in handles:
            await handle.result(timeout=20)
    assert most["acme"] == 1
    assert await no_locks_left(dsn)


async def test_cancelled_and_snoozed_ones_let_go(dsn: str) -> None:
    """However an attempt ends."""
    async with running(dsn) as jobs:
        first = await Bill("acme", "first", gated=True).later("call")
        await eventually_async(lambda: began("first"))
        second = await Bill("acme", "second").later("call")
        await eventually_async(lambda: is_(jobs, second.id, JobState.BLOCKED))
        assert await first.cancel() == "requested"
        await second.result(timeout=20)
    assert await no_locks_left(dsn)


async def test_stopping_lets_go(dsn: str) -> None:
    """A runner that stops gives its jobs back, and their locks to those who wait."""
    async with Jobs(dsn, shutdown_timeout=1).running() as jobs:
        first = await Bill("acme", "first", gated=True).later("call")
        await eventually_async(lambda: began("first"))
        second = await Bill("acme", "second").later("call")
        await eventually_async(lambda: is_(jobs, second.id, JobState.BLOCKED))
    gate("first").set()
    async with running(dsn) as jobs:
        await jobs.handle(second.id).result(timeout=20)
        await jobs.handle(first.id).result(timeout=20)
    assert await no_locks_left(dsn)


async def test_jobs_without_locks_send_no_statement_more(dsn: str) -> None:
    """Neither where they are claimed nor where they end: the lock's statements are of those who have one."""
    connection = await asyncpg.connect(dsn)
    for name, gives in (
        ("acquire_locks(bigint[], bigint[], bigint, bigint[])", "table (job_id bigint, verdict text)"),
        ("let_go(bigint)", "integer"),
    ):
        await connection.execute(f"drop function asyncjobs.{name}")
        await connection.execute(
            f"create function asyncjobs.{name} returns {gives} language plpgsql as "
            "$$ begin raise exception 'asked'; end $$"
        )
    async with running(dsn):
        for handle in [await plain.later(str(number)) for number in range(20)]:
            await handle.result(timeout=20)
    await connection.close()
    assert most["plain"] >= 1


async def test_a_hot_key_is_handed_over_with_no_poll(dsn: str) -> None:
    """A hundred jobs of one key, and nothing that looks now and then: each begins because the one before it ended."""
    async with running(dsn, slots=10):  # which looks once an hour
        handles = [await mail.later(7, str(number)) for number in range(100)]
        for handle in handles:
            await handle.result(timeout=30)
    assert most["7 en"] == 1
    assert order == [str(number) for number in range(100)]


async def test_who_looks_at_a_job_does_not_cost_it_its_turn(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is held for a moment, as by whoever begins to await its result: it does not go behind those that wait."""
    held: list[int] = []

    async def while_somebody_looks(session: Session, incarnation: int, jobs: Any, limited: Any) -> Acquired:
        jobs = list(jobs)
        if held or not gate("first").is_set():
            return await acquire_locks(session, incarnation, jobs, limited)
        held.extend(job.id for job in jobs)
        async with looking.transaction():
            await looking.execute("select from asyncjobs.live_jobs where id = any ($1) for update", held)
            return await acquire_locks(session, incarnation, jobs, limited)

    looking, counting = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    monkeypatch.setattr(grip, "acquire_locks", while_somebody_looks)
    async with running(dsn, slots=10):
        handles = [
            await Bill("it", name, gated=name == "first").later("call") for name in ("first", "2", "3")
        ]
        await eventually_async(lambda: _waits(counting, 2))
        gate("first").set()
        for handle in handles:
            await handle.result(timeout=20)
    assert order == ["first", "2", "3"]
    assert len(held) == 1
    await looking.close()
    await counting.close()


async def _waits(connection: asyncpg.Connection[Any], count: int) -> bool:
    query = "select count(*) from asyncjobs.live_jobs where state = 3 and id > 0"
    return bool(await connection.fetchval(query) == count)


# What is refused


def test_a_name_that_is_no_input_is_refused_where_it_is_written() -> None:
    """Of a class, and of a function."""
    with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):

        @attrs.frozen
        class Wrong(Later, lock="tennant", kind=KIND + "wrong"):
            tenant: str

            async def call(self) -> None: ...

    with pytest.raises(InvalidDefinition, match="lock="):

        @job(kind=KIND + "wrong function", lock="users")
        async def wrong(user: int) -> None: ...


@pytest.mark.seed("T5")
@pytest.mark.parametrize(
    ("lock", "words"),
    [(5, "lock=5"), ((), "lock="), ("", "lock="), (("a", "a"), "twice"), (["a", 3], "lock=")],
)
def test_what_is_no_lock_is_refused(lock: Any, words: str) -> None:
    """T5: "worker_lock: ≥1 attr": where it is written."""
    with pytest.raises(InvalidOption, match=words):
        job(kind=KIND + "never", lock=lock)(lambda: None)


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"slots": True}, {"slots": 1.5}, {"slots": 1001}, {"namespace": 5}, {"key": 5}],
)
def test_a_lock_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """Where it is made."""
    with pytest.raises(InvalidOption):
        Lock(**wrong)
    with pytest.raises(InvalidOption, match="two keys"):
        Lock("tenant", key="x")


async def test_a_wrong_name_in_later_is_refused_in_the_caller(dsn: str) -> None:
    """Nothing is stored."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):
            await Bill("acme").later("call", lock="tennant")
        assert await jobs.count_jobs() == {}
