"""A runner that sleeps is woken by a commit, and one that does not sleep costs nobody a notification.

The poll is an hour away in all of these, so what starts was woken.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import attrs
import pytest

from asyncjobs import Jobs, job
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._engine.link import _Answered
from asyncjobs._store.claims import announce_idle, is_past_horizon, withdraw_idle
from asyncjobs._store.intake import insert_job
from asyncjobs._store.session import Session
from tests.engine.running import NEVER, Watcher, runner_of, running, watching
from tests.store.jobs import new_job, store
from tests.waiting import eventually_async

NOTE = "test_wakeup:note"
WORK = "test_wakeup:work"
HOLD = "test_wakeup:hold"

began: dict[str, float] = {}
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def afresh() -> None:
    began.clear()
    gates.clear()


@job(kind=NOTE)
async def note(name: str) -> None:
    began[name] = time.perf_counter()


@job(kind=WORK)
async def work(name: str) -> None:
    await asyncio.sleep(0.02)
    began[name] = time.perf_counter()


@job(kind=HOLD, queue="held")
async def hold(name: str) -> None:
    """Keeps its slot until the gate is opened."""
    began[name] = time.perf_counter()
    await gates.setdefault(name, asyncio.Event()).wait()


def a_note(name: str, **given: Any) -> Any:
    """A note as another process would store it: nothing in this process hears of it."""
    return new_job(NOTE, "default", args=f'{{"name": "{name}"}}', **given)


def has_begun(name: str) -> Callable[[], Any]:
    return these_have_begun(name)


def these_have_begun(*names: str) -> Callable[[], Any]:
    async def fact() -> bool:
        return set(names) <= began.keys()

    return fact


async def test_a_commit_elsewhere_wakes_an_idle_runner(dsn: str) -> None:
    """By its notification, and within milliseconds."""
    waits = []
    async with running(dsn), watching(dsn) as other:
        for number in range(20):
            await other.until_idle()
            await store(other.session, a_note(str(number)))
            committed = time.perf_counter()
            await eventually_async(has_begun(str(number)))
            waits.append(began[str(number)] - committed)
    assert median(waits) < 0.05


async def test_a_commit_here_wakes_the_runner_without_a_notification(dsn: str) -> None:
    """The process that enqueued runs it, and nobody else need hear of it."""
    async with running(dsn), watching(dsn) as other:
        await other.listen()
        await other.until_idle()
        for number in range(5):
            await note.later(str(number))
            await eventually_async(has_begun(str(number)))
        assert await other.hears_all_that_was_said() == []


@pytest.mark.failure_mode("F81")
async def test_a_rolled_back_job_wakes_nobody(dsn: str) -> None:
    """Notifications are part of the transaction."""
    async with running(dsn), watching(dsn) as other, watching(dsn) as third:
        await third.listen()
        await other.until_idle()
        transaction = other.connection.transaction()
        await transaction.start()
        await store(other.session, a_note("never"))
        await transaction.rollback()
        assert await third.hears_all_that_was_said() == []
        await store(other.session, a_note("then"))
        await eventually_async(has_begun("then"))
        assert "never" not in began
        assert await third.hears_all_that_was_said() == ["default"]


@pytest.mark.failure_mode("F63")
async def test_nobody_is_notified_when_nobody_is_idle(dsn: str) -> None:
    """A runner whose slots are full withdraws its announcement soon; enqueuing then sends nothing, until one is free."""
    async with running(dsn, queues={"held": 2, "default": 1}), watching(dsn) as other:
        await other.listen()
        await other.until_idle(2)
        for name in "abc":  # one more than there are slots
            await store(other.session, new_job(HOLD, "held", args=f'{{"name": "{name}"}}'))

        async def withdrawn() -> bool:
            return len(began) == 2 and bool(await other.idle_announcements() == 1)

        began_at = time.perf_counter()
        await eventually_async(withdrawn)
        assert time.perf_counter() - began_at < 1.0
        await other.until_idle(1)
        other.heard.clear()
        for name in "defghij":
            await store(other.session, new_job(HOLD, "held", args=f'{{"name": "{name}"}}'))
        assert await other.hears_all_that_was_said() == []
        await store(other.session, a_note("another queue is idle"))
        await eventually_async(has_begun("another queue is idle"))
        assert Counter(await other.hears_all_that_was_said()) == {"default": 1}
        for name in "abcdefghij":
            gates.setdefault(name, asyncio.Event()).set()
        await eventually_async(these_have_begun(*"abcdefghij"))
        await other.until_idle(2)


@pytest.mark.failure_mode("F63")
async def test_a_stream_of_jobs_is_not_a_stream_of_notifications(dsn: str) -> None:
    """Enqueued one by one by several at once, faster than they are run, most jobs find the runner awake."""
    several, each = 8, 300
    names = [[f"{number} {nth}" for nth in range(each)] for number in range(several)]
    async with running(dsn, slots=2), watching(dsn) as third, AsyncExitStack() as stack:
        await third.listen()
        others = [await stack.enter_async_context(watching(dsn)) for _ in range(several)]
        await third.until_idle()

        async def enqueue(other: Watcher, mine: list[str]) -> None:
            for name in mine:
                await insert_job(other.session, new_job(WORK, "default", args=f'{{"name": "{name}"}}'))

        await asyncio.gather(*map(enqueue, others, names))
        assert len(began) < several * each / 2, "they were not enqueued faster than they ran"
        assert len(await third.hears_all_that_was_said()) < several * each / 2


async def test_a_transaction_that_looked_before_the_announcement_is_not_overheard(dsn: str) -> None:
    """It saw no idle runner, the runner saw no job, and it commits after both: found within 0.1 s or so."""
    waits = []
    for number in range(5):
        async with watching(dsn) as other:
            async with other.connection.transaction():
                await store(other.session, a_note(str(number)))  # nobody is there to be woken
                context = running(dsn)
                await context.__aenter__()
                async with watching(dsn) as third:

                    async def announced(third: Watcher = third) -> bool:
                        return await third.idle_announcements() == 1

                    await eventually_async(announced)
                    await asyncio.sleep(0.02 * number)  # at different points of its falling asleep
            committed = time.perf_counter()
            try:
                await eventually_async(has_begun(str(number)))
                waits.append(began[str(number)] - committed)
            finally:
                await context.__aexit__(None, None, None)
    assert median(waits) < 0.1


async def test_the_horizon_is_taken_after_the_announcement(dsn: str) -> None:
    """No transaction that could not see the announcement has a higher id than the one that is waited for."""
    async with watching(dsn) as one, watching(dsn) as other:
        before = await other.connection.fetchval("select pg_current_xact_id()::text::bigint")
        refused, own = await announce_idle(one.session, ["default", ""])
        assert refused == []
        assert own > before
        async with other.connection.transaction():
            after = await other.connection.fetchval("select pg_current_xact_id()::text::bigint")
            assert after > own
            assert await is_past_horizon(one.session, own)
            assert not await is_past_horizon(one.session, after)
        await withdraw_idle(one.session, ["default", ""])
        assert await other.idle_announcements() == 0


@pytest.mark.failure_mode("F84")
async def test_a_long_transaction_elsewhere_delays_nobody(dsn: str) -> None:
    """While one is open nobody can tell whether it looked before; jobs start all the same."""
    async with watching(dsn) as long, watching(dsn) as other, long.connection.transaction():
        await long.connection.execute("create table something_long ()")
        async with running(dsn):
            for number in range(3):
                await asyncio.sleep(0.15)
                await store(other.session, a_note(str(number)))
                committed = time.perf_counter()
                await eventually_async(has_begun(str(number)))
                assert began[str(number)] - committed < 0.5


@pytest.mark.failure_mode("F52")
async def test_garbage_is_ignored(dsn: str) -> None:
    """On every channel, and the runner hears on."""
    async with running(dsn) as jobs, watching(dsn) as other:
        await other.until_idle()
        for channel in ("ready", "finished", "cancel", "queues"):
            for payload in ("", "garbage!", "-1", "9" * 30, "💥", "x" * 7000, "1; drop table jobs", "NaN"):
                await other.connection.execute("select pg_notify($1, $2)", f"asyncjobs:{channel}", payload)
        await other.until_idle()
        await store(other.session, a_note("after"))
        await eventually_async(has_begun("after"))
        handle = await note.later("result")
        await handle.result(timeout=10)
        assert not jobs.is_degraded


async def test_a_job_due_later_starts_then(dsn: str) -> None:
    """Not before, and a tenth of a second after at most when the runner is idle; also one stored by another process."""
    async with running(dsn), watching(dsn) as other:
        await other.until_idle()
        stored = time.perf_counter()
        await store(other.session, a_note("elsewhere", delay=0.3))
        await note.set(delay=0.5).later("here")
        for name, delay in (("elsewhere", 0.3), ("here", 0.5)):
            await eventually_async(has_begun(name))
            assert delay <= began[name] - stored < delay + 0.2


async def test_an_earlier_job_is_not_hidden_by_a_later_one(dsn: str) -> None:
    """The alarm is set again when something nearer comes."""
    async with running(dsn), watching(dsn) as other:
        await store(other.session, a_note("tomorrow", delay=86400.0))
        await other.until_idle()
        await store(other.session, a_note("soon", delay=0.1))
        await eventually_async(has_begun("soon"))
        assert "tomorrow" not in began


# Things in the way.


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each statement was sent in this process."""
    counted: Counter[str] = Counter()
    for kind, how in itertools.product((Session, _Answered), ("fetch", "fetchrow", "fetchval", "execute")):
        original = getattr(kind, how)

        def count(self: Session, statement: str, *args: Any, original: Any = original) -> Any:
            counted[statement] += 1
            return original(self, statement, *args)

        monkeypatch.setattr(kind, how, count)
    return counted


async def test_an_announcement_that_is_refused_is_tried_again_in_peace(dsn: str, sent: Counter[str]) -> None:
    """A probe that was interrupted between its two halves leaves the lock with its session, until that ends."""
    async with watching(dsn) as other, watching(dsn) as third:
        await third.connection.execute("select pg_advisory_lock(1634364777, hashtext('asyncjobs:'))")
        async with running(dsn):
            await asyncio.sleep(0.3)
            sent.clear()
            await asyncio.sleep(0.5)
            assert sent["announce_idle"] < 50
            await store(other.session, a_note("meanwhile"))
            await eventually_async(has_begun("meanwhile"))
            await third.connection.execute("select pg_advisory_unlock_all()")
            await other.until_idle()


@pytest.mark.failure_mode("F83")
async def test_a_due_job_that_somebody_holds_is_waited_for_in_peace(dsn: str, sent: Counter[str]) -> None:
    """It is passed over, looked at again now and then, and starts when it is let go."""
    async with running(dsn), watching(dsn) as other, watching(dsn) as third:
        async with third.connection.transaction():
            (held,) = await store(other.session, a_note("held", delay=0.05))
            await third.connection.execute("select from asyncjobs.live_jobs where id = $1 for update", held)
            await asyncio.sleep(0.2)
            sent.clear()
            await asyncio.sleep(0.5)
            assert sent["promote_jobs"] < 50
            await store(other.session, a_note("another"))
            await eventually_async(has_begun("another"))
        await eventually_async(has_begun("held"))


async def test_an_idle_runner_rests(dsn: str, sent: Counter[str]) -> None:
    """What it sends while there is nothing to do is what its keeper must."""
    async with running(dsn), watching(dsn) as other:
        await other.until_idle()
        sent.clear()
        await asyncio.sleep(1.2)
        assert sum(sent.values()) <= 8, sent
        assert sent["claim_jobs"] + sent["look_around"] + sent["announce_idle"] == 0


# Where nothing listens.


async def test_without_listen_jobs_are_polled_for(dsn: str) -> None:
    """No LISTEN, no lock of a session's: nothing a transaction pooler would break. A quarter of a second at most."""
    async with running(dsn, rhythm=Rhythm(), listen=False) as jobs, watching(dsn) as other:
        assert jobs.modes is not None and not jobs.modes.hears
        await asyncio.sleep(0.5)
        for number in range(3):
            await asyncio.sleep(0.3)
            await store(other.session, a_note(str(number)))
            committed = time.perf_counter()
            await eventually_async(has_begun(str(number)))
            assert began[str(number)] - committed < 1.0
        assert (
            await other.connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
        )
        waits = (
            "select count(*) from pg_stat_activity where query ilike 'listen %' and pid <> pg_backend_pid()"
        )
        assert await other.connection.fetchval(waits) == 0


async def test_without_listen_the_poll_slows_down(dsn: str, sent: Counter[str]) -> None:
    """From 20 ms to 250 ms while there is nothing to do."""
    async with running(dsn, rhythm=Rhythm(), listen=False):
        await asyncio.sleep(1.0)
        sent.clear()
        await asyncio.sleep(1.0)
        assert 1 <= sent["look_around"] <= 8


# Several runners.


async def test_a_commit_wakes_every_idle_runner_once_and_one_runs_it(dsn: str) -> None:
    """And all of them sleep again."""
    async with running(dsn), watching(dsn) as other:
        second = Jobs(dsn)
        second._settings = attrs.evolve(second._settings, rhythm=NEVER)
        async with second.running():
            await runner_of(second).connected()
            await other.until_idle(2)
            for number in range(10):
                await store(other.session, a_note(str(number)))
                await eventually_async(has_begun(str(number)))
            await other.until_idle(2)
            attempts = await other.connection.fetch(
                "select distinct attempt, token from asyncjobs.finished_jobs"
            )
            assert [tuple(row) for row in attempts] == [(1, 1)]


async def test_more_jobs_than_this_process_has_slots_wake_others(dsn: str) -> None:
    """A process that is hungry keeps what it enqueues to itself, but only as much as it can eat."""
    async with running(dsn, queues={"held": 2}) as jobs, watching(dsn) as other:
        second = Jobs(dsn, queues={"held": 10})
        second._settings = attrs.evolve(second._settings, rhythm=NEVER)
        async with second.running():
            await runner_of(second).connected()
            await other.until_idle(2)
            names = [f"burst {number}" for number in range(8)]
            await asyncio.gather(*(hold.set(jobs=jobs).later(name) for name in names))
            await eventually_async(these_have_begun(*names), within=5)
            for name in names:
                gates[name].set()
