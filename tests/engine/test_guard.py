"""Requests come first: jobs give way when the loop lags or the pool is empty, and who blocks the loop is named."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from asyncjobs import Blocked, Guard, InvalidDefinition, InvalidOption, Jobs, Later, current_job, job
from asyncjobs._engine import turnstile
from asyncjobs._engine.throttle import FULL, HARD, LEAST, TRICKLE, WINDOW, Sample, Throttle
from asyncjobs._engine.turnstile import Flow, Turnstile
from asyncjobs._model.job import ClaimedJob
from asyncjobs._store.source import EngineSource, PoolSource
from tests.engine.running import runner_of, running
from tests.waiting import eventually_async

QUICK = Guard(blocked=0.1)
"""For those who cannot block for long."""


# How many slots are open: pure.


def fed(
    throttle: Throttle, late: float, windows: int = 1, *, busy: float = 0.5, starved: bool = False
) -> float:
    """Its share after so many windows of one lateness."""
    for _ in range(windows):
        throttle.tell(Sample(late, WINDOW, busy * WINDOW, starved))
    return throttle.share


def test_a_quick_loop_leaves_every_slot_open() -> None:
    """Nothing to give way to, however much it does."""
    assert fed(Throttle(0.05), 0.05 * HARD * 0.9, 100, busy=1.0) == 1.0


def test_fewer_slots_are_open_the_longer_the_loop_is_late_and_full() -> None:
    """Less with every window, until hardly any is; when it is on time again, they open again."""
    throttle = Throttle(0.05)
    shares = [fed(throttle, 0.05 * HARD * 1.1, busy=FULL + 0.1) for _ in range(20)]
    assert shares == sorted(shares, reverse=True)
    assert 1.0 > shares[0] > shares[-1] == LEAST
    assert fed(throttle, 0.0, 20, busy=FULL) == 1.0


def test_a_loop_that_waits_for_the_machine_is_no_reason_for_fewer_jobs() -> None:
    """It is late, and its thread is hardly at work: without the jobs it would be as late."""
    assert fed(Throttle(0.05), 0.02, 50, busy=FULL - 0.1) == 1.0
    assert fed(Throttle(0.05), 0.03, 50, busy=0.0) == LEAST  # but that is too much, whoever it is


def test_single_samples_count_together() -> None:
    """One late moment among many is none."""
    throttle = Throttle(0.05)
    changed = [throttle.tell(Sample(0.015 if nth == 3 else 0.0, WINDOW / 20)) for nth in range(20)]
    assert not any(changed)


def test_at_the_lag_nothing_begins_from_the_first_sample_on() -> None:
    """A window is not waited for."""
    throttle = Throttle(0.05)
    throttle.tell(Sample(0.0, 0.01))
    assert throttle.tell(Sample(0.05, 0.06))
    assert throttle.share == 0.0


def test_what_closed_at_one_end_opens_at_the_other() -> None:
    """In between it stays closed, so it does not flutter; one late moment costs little."""
    throttle = Throttle(0.05)
    fed(throttle, 0.06)
    assert fed(throttle, 0.03, 3) == 0.0
    assert fed(throttle, 0.0) > 0.5
    assert fed(throttle, 0.0, 5) == 1.0


def test_no_loop_is_so_late_that_jobs_stand_still_for_ever() -> None:
    """An application that lags by itself keeps lagging: a job gets through now and then."""
    throttle = Throttle(0.05)
    shares = [fed(throttle, 1.0) for _ in range(3 * TRICKLE)]
    assert Counter(shares) == {0.0: 3 * TRICKLE - 3, LEAST: 3}


def test_a_pool_without_connections_closes_slots_too() -> None:
    """Requests wait for the jobs' connections, however quick the loop is."""
    throttle = Throttle(0.05)
    assert fed(throttle, 0.0, 20, starved=True) == LEAST
    assert fed(throttle, 0.0, 30) == 1.0


# Many at once.


class Turns:
    """How often the loop has turned, for others."""

    count = 0

    async def go_on(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def test_jobs_that_begin_together_enter_a_few_at_a_time() -> None:
    """In between the loop turns, and serves others; and all get in."""
    gate, turns, entered = Turnstile(), Turns(), Counter[int]()

    async def begin() -> None:
        if (ticket := gate.enter()) is not None:
            await ticket
        entered[turns.count] += 1
        time.sleep(0.001)  # noqa: ASYNC251

    other = asyncio.create_task(turns.go_on())
    await asyncio.gather(*(begin() for _ in range(100)))
    other.cancel()
    assert sum(entered.values()) == 100
    assert max(entered.values()) <= 5  # a millisecond each: they are soon let in one by one


MOMENT = turnstile.MOMENT


def settled(flow: Flow, work: Callable[[int], float]) -> float:
    """How many enter in a moment in the end, when so many cost the loop's thread so many seconds."""
    for _ in range(3000):
        entered = max(1, int(flow.width))
        flow.tell(entered, work(entered), MOMENT)
    return flow.width


def test_a_loop_with_room_lets_in_more_and_more() -> None:
    """What costs next to nothing is not held up."""
    assert settled(Flow(), lambda count: count * 0.000_01) == turnstile.MOST


def test_a_full_loop_lets_in_few_and_never_none() -> None:
    """Whoever fills it: jobs go on, a few at a time; and come back when it has room again."""
    flow = Flow(width=50.0)
    assert settled(flow, lambda _: MOMENT) == turnstile.LEAST
    assert settled(flow, lambda count: count * 0.000_01) == turnstile.MOST


@given(st.floats(0.000_01, MOMENT), st.floats(0.0, turnstile.ROOM * MOMENT))
def test_what_enters_together_is_never_so_much_that_a_request_would_notice(cost: float, base: float) -> None:
    """Of any cost, beside any application: one alone, or a burst of work that has its limit."""
    width = settled(Flow(), lambda count: base + count * cost)
    assert width <= max(1.0, turnstile.BURST / cost) * 1.01


def test_a_request_that_fills_a_moment_alone_changes_little() -> None:
    """Moments count together: one request in ten moments is no full loop."""
    flow = Flow()
    for nth in range(3000):
        flow.tell(1, MOMENT if nth % 10 == 0 else 0.0001, MOMENT)
    assert flow.width >= 1.0


async def test_who_waited_for_a_loop_that_was_held_goes_first() -> None:
    """Between two jobs that block it the loop turns as often as a request needs: not only once."""
    gate, turns, came = Turnstile(), Turns(), list[int]()

    async def begin(number: int) -> None:
        if (ticket := gate.enter()) is not None:
            await ticket
        came.append(turns.count)
        time.sleep(0.05)  # noqa: ASYNC251

    other = asyncio.create_task(turns.go_on())
    await asyncio.gather(*(begin(number) for number in range(5)))
    other.cancel()
    assert all(later - earlier > 10 for earlier, later in itertools.pairwise(came))


async def test_a_closed_turnstile_lets_nobody_in_until_it_opens() -> None:
    """What is in line waits as well."""
    gate = Turnstile()
    gate.is_closed = True
    tickets = [gate.enter() for _ in range(3)]
    await asyncio.sleep(10 * turnstile.MOMENT)
    assert all(ticket is not None and not ticket.done() for ticket in tickets)
    gate.is_closed = False
    for ticket in tickets:
        assert ticket is not None
        await ticket


async def test_who_comes_alone_comes_in_at_once() -> None:
    """One job on an idle loop waits for nothing."""
    assert Turnstile().enter() is None


async def test_who_waits_for_his_turn_may_be_cancelled() -> None:
    """The others come in all the same."""
    gate, came = Turnstile(), []

    async def begin(number: int) -> None:
        if (ticket := gate.enter()) is not None:
            await ticket
        came.append(number)

    tasks = [asyncio.create_task(begin(number)) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[20:30]:
        task.cancel()
    await asyncio.wait(tasks)
    assert came == [number for number in range(50) if number not in range(20, 30)]


# Giving way.


@job(kind="test_guard:nothing")
async def nothing() -> None: ...


@job(kind="test_guard:asleep")
async def asleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def stutter(over: Callable[[], bool]) -> None:
    """An application that is late all the time."""
    while not over():
        time.sleep(0.06)  # noqa: ASYNC251
        await asyncio.sleep(0)


async def test_jobs_that_wait_to_enter_are_not_hoarded(dsn: str) -> None:
    """Of many free slots only some are filled before those who wait in them have entered: peers may have the rest."""
    async with running(dsn, slots=500) as jobs:
        (pool,) = runner_of(jobs)._pools
        entering = []
        async with asyncio.TaskGroup() as tasks:
            handles = await jobs.enqueue_many(asleep.prepare(0.0) for _ in range(200))
            for handle in handles:
                tasks.create_task(handle.result(timeout=20))
            while await handles[-1].status() != "completed":
                entering.append(pool.entering)
        assert max(entering) <= turnstile.MOST_IN_LINE
        assert pool.entering == 0


@pytest.mark.parametrize("reason", ["cancel", "lost", "shutdown"])
async def test_a_job_that_is_stopped_before_its_first_step_leaves_its_slot(dsn: str, reason: str) -> None:
    """asyncio runs nothing of a task that is cancelled before it began: not even what frees the slot."""
    async with running(dsn) as jobs:
        runner = runner_of(jobs)
        (pool,) = runner._pools
        runner._attempts.begin(claimed(), pool)
        (attempt,) = runner._attempts
        attempt.stop(reason)

        async def over() -> bool:
            return (pool.occupied, pool.entering, runner.busy) == (0, 0, 0)

        await eventually_async(over)
        assert not attempt.running.completed


def claimed() -> ClaimedJob:
    """A job as a claim brings it."""
    now = datetime.now(UTC)
    return ClaimedJob(1, 1, 1, 3, 0, "default", "test_guard:nothing", None, "{}", None, None, None, now)


@pytest.mark.failure_mode("F11")
async def test_jobs_give_way_while_the_loop_lags_and_come_back(dsn: str) -> None:
    """None begins while it does; all that waited have run in the end."""
    async with running(dsn, guard=Guard(lag=0.05), slots=20) as jobs:
        (pool,) = runner_of(jobs)._pools
        handles = [await asleep.later(0.05) for _ in range(40)]
        late = asyncio.create_task(stutter(lambda: pool.open == 0))
        await late
        assert pool.free == 0
        for handle in handles:
            await handle.result(timeout=20)

        async def open_again() -> bool:
            return pool.open > 0

        await eventually_async(open_again)


async def test_alone_in_its_process_nothing_gives_way(dsn: str) -> None:
    """There are no requests."""
    jobs = Jobs(dsn, guard=Guard(lag=0.001))
    async with jobs.running(standalone=True):
        (pool,) = runner_of(jobs)._pools
        await asleep.later(0.3)
        laps = iter(range(5))
        await stutter(lambda: next(laps, None) is None)
        assert pool.open == pool.size
        await jobs.work_off()


@pytest.mark.failure_mode("F47")
async def test_a_pool_that_is_empty_is_seen_and_stops_no_job(dsn: str) -> None:
    """All its connections are with requests: the runner has its own, and what needs none of the pool runs on."""
    async with asyncpg.create_pool(dsn, min_size=2, max_size=2) as pool:  # noqa: SIM117
        async with running(None, pool=pool, slots=20) as jobs:  # type: ignore[arg-type]
            for _ in range(30):
                await nothing.later()
            async with pool.acquire(), pool.acquire():
                assert PoolSource(pool).is_exhausted()
                runner = runner_of(jobs)

                async def drained() -> bool:
                    return runner.is_idle

                await eventually_async(drained)
            assert not PoolSource(pool).is_exhausted()


async def test_an_engine_that_is_empty_is_seen(dsn: str) -> None:
    """With its overflow; one without limits never is."""
    engine = create_async_engine(
        dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_size=1, max_overflow=1
    )
    source = EngineSource(engine)
    async with engine.connect():
        assert not source.is_exhausted()
        async with engine.connect():
            assert source.is_exhausted()
        assert not source.is_exhausted()
    await engine.dispose()


@pytest.mark.parametrize(
    "given", [{"lag": 0}, {"lag": 61}, {"blocked": timedelta(0)}, {"lag": -1}, {"lag": "1"}]
)
def test_a_guard_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    """Where it is made, with what to do."""
    with pytest.raises(InvalidOption, match="lag|blocked"):
        Guard(**given)
    with pytest.raises(InvalidOption, match=r"pass Guard\(lag=…, blocked=…\), or None"):
        Jobs("postgresql:///x", guard=given)  # type: ignore[arg-type]


def test_durations_of_a_guard_are_timedeltas_or_seconds() -> None:
    """As everywhere."""
    assert Guard(lag=timedelta(milliseconds=20), blocked=1) == Guard(lag=0.02, blocked=timedelta(seconds=1))


# Who blocks.


def hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


@job(kind="test_guard:block")
async def block(how: str) -> None:
    """Holds the loop, in one way or another."""
    if how == "itself":
        hold_the_loop(0.4)
    elif how == "in a child task":
        await asyncio.create_task(child())
    elif how == "in a callback":
        asyncio.get_running_loop().call_soon(hold_the_loop, 0.4)
        await asyncio.sleep(0.01)


async def child() -> None:
    hold_the_loop(0.4)


async def reported(jobs: Jobs) -> Blocked:
    async def some() -> list[Blocked]:
        return [each for each in jobs.blockers() if each.seconds >= 0.35]

    return (await eventually_async(some))[-1]


@pytest.mark.failure_mode("F11")
@pytest.mark.parametrize("how", ["itself", "in a child task", "in a callback"])
async def test_a_job_that_blocks_the_loop_is_named_with_its_stack(
    dsn: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, while it does, for the log; and for a health page, how long it was in the end."""
    async with running(dsn, guard=QUICK) as jobs:
        handle = await block.later(how)
        await handle.result(timeout=20)
        report = await reported(jobs)
    assert (report.job_id, report.kind) == (handle.id, "test_guard:block")
    assert "hold_the_loop" in report.stack
    assert str(report).startswith(f"job {handle.id} (test_guard:block) blocked the event loop for 0.")
    said = f"job {handle.id} (test_guard:block) has blocked the event loop"
    (warning,) = [
        each for each in caplog.records if said in each.message
    ]  # a loaded machine may block it too
    assert warning.levelno == logging.WARNING
    assert "hold_the_loop" in warning.message
    assert warning.job_id == handle.id  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["in a task", "in a callback"])
async def test_an_application_that_blocks_itself_is_not_blamed_on_a_job(dsn: str, how: str) -> None:
    """Though jobs run."""
    async with running(dsn, guard=QUICK) as jobs:
        waiting = await asleep.later(0.2)
        if how == "in a task":
            await asyncio.create_task(child(), name="request 7")
        else:
            asyncio.get_running_loop().call_soon(hold_the_loop, 0.4)
            await asyncio.sleep(0.01)
        report = await reported(jobs)
        await waiting.result(timeout=20)
    assert report.job_id is None
    assert report.who.startswith("the application itself")
    assert ("request 7" in report.who) == (how == "in a task")
    assert "hold_the_loop" in report.stack


@job(kind="test_guard:backtrack")
async def backtrack(length: int) -> None:
    """One call into C, which gives the interpreter to nobody meanwhile."""
    re.match(r"(a+)+$", "a" * length + "b")


def length_for(seconds: float) -> int:
    """How long a text the expression needs so long for, on this machine, however much else it does."""
    length = 18
    while True:
        started = time.thread_time()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.thread_time() - started > seconds / 2:
            return length + 1
        length += 1


@pytest.mark.failure_mode("F12")
async def test_who_holds_the_interpreter_is_named_as_soon_as_it_lets_go(dsn: str) -> None:
    """Nobody can look before: not a thread either."""
    length = length_for(0.4)
    async with running(dsn, guard=QUICK) as jobs:
        handle = await backtrack.later(length)
        await handle.result(timeout=20)

        async def some() -> list[Blocked]:
            return [each for each in jobs.blockers() if each.job_id == handle.id]

        (report,) = await eventually_async(some)
    assert report.seconds > 0.2
    assert "backtrack" in report.who + report.stack  # as seen, or as known where it had ended


@pytest.mark.failure_mode("F12")
async def test_who_held_the_interpreter_is_named_though_it_ended_before_anybody_could_look(dsn: str) -> None:
    """Not what the loop is at a moment later."""
    length = length_for(0.6)
    async with running(dsn, guard=QUICK) as jobs:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(20)  # no other thread runs before the loop's waits for something: the server
        try:
            handle = await backtrack.later(length)
            await handle.result(timeout=20)
        finally:
            sys.setswitchinterval(usual)

        async def some() -> list[Blocked]:
            return [each for each in jobs.blockers() if each.seconds > 0.2]

        report = (await eventually_async(some))[-1]
    assert (report.job_id, report.kind) == (handle.id, "test_guard:backtrack")
    assert str(handle.id) in report.who


async def test_without_a_guard_nobody_looks(dsn: str) -> None:
    """No thread, no report."""
    async with running(dsn, guard=None) as jobs:
        assert "asyncjobs guard" not in {thread.name for thread in threading.enumerate()}
        await (await block.later("itself")).result(timeout=20)
        assert jobs.blockers() == []


async def test_the_watch_ends_with_the_runner(dsn: str) -> None:
    """Its thread, too."""
    async with running(dsn):
        (watch,) = [thread for thread in threading.enumerate() if thread.name == "asyncjobs guard"]
    await anyio.to_thread.run_sync(watch.join, 5)
    assert not watch.is_alive()


# Kept out of the web process.


class Train(Later, placement="standalone", queue="heavy"):
    """Not beside requests."""

    async def call(self) -> str:
        return str(current_job().id)


class Trains(Train):
    """The same, inherited."""


class Ride(Train, placement="anywhere"):
    """Not the same."""


@job(kind="test_guard:digest", placement="standalone", queue="heavy")
async def digest() -> None: ...


async def test_a_kind_may_be_kept_out_of_processes_that_serve_requests(dsn: str) -> None:
    """It waits there, and runs in one of their own: woken, not found by looking."""
    async with running(dsn) as web:
        kept = [await Train().later("call"), await Trains().later("call"), await digest.later()]
        await (await Ride().later("call")).result(timeout=20)
        await web.work_off()
        assert [await each.status() for each in kept] == ["available"] * 3
    alone = Jobs(dsn)
    async with alone.running(standalone=True):
        for each in kept:
            await alone.handle(each.id).result(timeout=20)


async def test_a_process_that_is_kept_out_leaves_the_others_asleep_no_longer(dsn: str) -> None:
    """Who enqueues in the web process wakes those who may run it: that its own runner is idle means nothing."""
    async with running(dsn, queues={"heavy": 1}) as web:

        async def is_hungry() -> bool:
            return web._serves([_lane(Ride)])

        await eventually_async(is_hungry)
        assert not web._serves([_lane(Train)])


def _lane(cls: type[Later]) -> Any:
    from asyncjobs._model.job import Lane

    return Lane("heavy", cls.__asyncjobs_service__.kind)  # type: ignore[attr-defined]


def test_a_place_that_is_none_is_refused_where_it_is_written() -> None:
    """And where it would mean nothing."""
    with pytest.raises(InvalidOption, match="placement='web' is no place; say 'standalone'"):
        job(placement="web")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="no option 'placement'"):
        digest.set(placement="anywhere")  # type: ignore[call-arg]
    with pytest.raises(InvalidDefinition, match="its class says where its jobs run"):

        class Part(Later, kind="test_guard:Part"):
            @job(placement="standalone")
            async def call(self) -> None: ...
