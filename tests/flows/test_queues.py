"""Which job begins next: weights among queues, priorities inside one, slots that take only some."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import InvalidOption, Jobs, JobState, Later, QueueRegistry, job
from tests.engine.running import runner_of
from tests.waiting import eventually, eventually_async

began: list[str] = []
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def nothing_began() -> None:
    began.clear()
    gates.clear()


@job(kind="test_queues:note")
async def note(what: str) -> None:
    began.append(what)


@job(kind="test_queues:hold")
async def hold(what: str) -> None:
    """Until its gate is opened."""
    began.append(what)
    await gates.setdefault(what, asyncio.Event()).wait()


def release(*names: str) -> None:
    for name in names or list(gates):
        gates.setdefault(name, asyncio.Event()).set()


async def hold_each(jobs: Jobs, queue: str, *priorities: int) -> list[str]:
    names = [f"{queue}{priority}.{nth}" for nth, priority in enumerate(priorities)]
    await jobs.enqueue_many(
        [hold.set(queue=queue, priority=p).prepare(name) for p, name in zip(priorities, names, strict=True)]
    )
    return names


async def held(*names: str) -> None:
    """Wait until exactly these have begun and the runner rests."""
    await asyncio.to_thread(eventually, lambda: sorted(began) == sorted(names) or None)


def heavy_and_light() -> QueueRegistry:
    queues = QueueRegistry()
    queues.register().queue("heavy", 200).queue("light", -5000)
    return queues


# Weights.


@pytest.mark.seed("T3")
async def test_the_heavier_queue_comes_first(dsn: str) -> None:
    """T3: "… strict weights": whatever the priorities and ages, with no slot reserved, the heavier queue is emptied first."""
    jobs = Jobs(dsn, queues=heavy_and_light(), slots=1, reserved=0)
    async with jobs:
        for nth in range(4):
            await note.set(queue="light", priority=-10).later(f"light {nth}")
        for nth in range(4):
            await note.set(queue="heavy", priority=10).later(f"heavy {nth}")
    async with jobs.running():
        await jobs.work_off()
    assert began == [f"{queue} {nth}" for queue in ("heavy", "light") for nth in range(4)]


@pytest.mark.seed("T3")
async def test_ties_are_fair(dsn: str) -> None:
    """T3: "… ties fair": queues of one weight take turns, though one has more urgent jobs, also in a single slot."""
    queues = QueueRegistry()
    queues.register(a=7, b=7)
    jobs = Jobs(dsn, queues=queues, slots=1)
    async with jobs:
        for nth in range(4):
            await hold.set(queue="a", priority=-5).later(f"a{nth}")
        for nth in range(4):
            await hold.set(queue="b", priority=5).later(f"b{nth}")
    async with jobs.running():
        for count in range(1, 9):
            await asyncio.to_thread(eventually, lambda count=count: len(began) == count)
            release(began[-1])
    assert began[::2] in (["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"])
    assert {name[0] for name in began[::2]} != {name[0] for name in began[1::2]}


@pytest.mark.seed("T3")
async def test_a_light_queue_never_starves(dsn: str) -> None:
    """T3: "… strict weights but with reserved slot so −5000 queue never starves for ever (configurable)": while the heavy queue never ends, one of two slots serves the light."""
    jobs = Jobs(dsn, queues=heavy_and_light(), slots=2)
    async with jobs.running():
        await hold_each(jobs, "heavy", *[0] * 12)
        light = await hold_each(jobs, "light", *[100] * 3)
        done = 0
        while not set(light) <= set(began):
            await asyncio.to_thread(eventually, lambda so_far=done: len(began) - so_far == 2)
            assert done < 10, began
            release(began[done])  # the one that began first ends
            done += 1
        release(*(f"heavy0.{nth}" for nth in range(12)), *light)


@pytest.mark.seed("T3")
async def test_reserving_none_is_a_choice(dsn: str) -> None:
    """T3: "… (configurable)": with reserved=0 both slots are the heavy queue's while it has jobs."""
    jobs = Jobs(dsn, queues=heavy_and_light(), slots=2, reserved=0)
    async with jobs:
        await hold_each(jobs, "light", 0, 0)
        heavy = await hold_each(jobs, "heavy", 5, 5)
    async with jobs.running():
        await held(*heavy)
        release(*heavy)
        await asyncio.to_thread(eventually, lambda: len(began) == 4)
        release()
        await jobs.work_off()


async def test_a_registry_says_which_queues_are_served(dsn: str) -> None:
    """Jobs(queues=registry) serves its queues, also those registered later, and no others."""
    queues = QueueRegistry()
    jobs = Jobs(dsn, queues=queues)
    with pytest.raises(InvalidOption, match="no queue is registered"):
        async with jobs.running():
            pass
    queues.register("account", default=100)
    async with jobs.running():
        mine = await note.set(queue="default", app="account").later("mine")
        other = await note.set(queue="other").later("other")
        await mine.result(timeout=20)
        await jobs.work_off()
        assert await other.status() is JobState.AVAILABLE
        served = await jobs.get_job(mine.id)
        assert served is not None
        assert served.queue == "account_default"


# Names.


@attrs.frozen
class Refresh(Later, kind="test_queues:Refresh", queue="refresh", app="account"):
    user_id: int

    async def call(self) -> None: ...


@pytest.mark.seed("T2")
async def test_an_app_is_a_namespace(dsn: str) -> None:
    """T2: "`queue`, `app` namespace from package, overridable per enqueue; `full_queue` literal"."""

    async def queue_of(**options: Any) -> str:
        handle = await Refresh(1).later("call", **options)
        found = await jobs.get_job(handle.id)
        assert found is not None
        return found.queue

    async with Jobs(dsn) as jobs:
        assert await queue_of() == "account_refresh"
        assert await queue_of(queue="slow") == "account_slow"
        assert await queue_of(app="billing") == "billing_refresh"
        assert await queue_of(app="my.billing", queue="slow") == "my_billing_slow"
        assert await queue_of(app=None, queue="mail") == "mail"
        with pytest.raises(InvalidOption, match="queue='account_"):
            await queue_of(queue="x" * 119)
        with pytest.raises(InvalidOption, match="app="):
            await queue_of(app=3)


@pytest.mark.seed("D7")
async def test_a_queue_has_a_priority_of_its_own(dsn: str) -> None:
    """D7: "… queue default priority with per-job override"."""
    queues = QueueRegistry()
    queues.register().queue("tracking", priority=20)

    async def priority_of(**options: int) -> int:
        handle = await note.set(queue="tracking", **options).later("x")  # type: ignore[arg-type]
        found = await jobs.get_job(handle.id)
        assert found is not None
        return found.priority

    async with Jobs(dsn, queues=queues) as jobs:
        assert await priority_of() == 20
        assert await priority_of(priority=0) == 0
        assert await priority_of(priority=-7) == -7


# Undeclared queues.


def warnings_of(log: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in log.records if "no part of the application" in record.getMessage()
    ]


@pytest.mark.seed("T3")
async def test_an_undeclared_queue_is_warned_about_once(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """T3: "… undeclared queue ⇒ logged warning at enqueue **and** `asyncjobs check`": once for each queue, and the job is stored all the same."""
    queues = QueueRegistry()
    queues.register(known=1)
    with caplog.at_level(logging.WARNING, "asyncjobs"):
        async with Jobs(dsn, queues=queues) as jobs:
            await note.set(queue="known").later("x")
            assert warnings_of(caplog) == []
            for _ in range(3):
                handle = await note.set(queue="tpyo").later("x")
            await jobs.enqueue_many(
                [note.set(queue="other").prepare("x"), note.set(queue="tpyo").prepare("x")]
            )
    said = warnings_of(caplog)
    assert [("tpyo" in line, "other" in line) for line in said] == [(True, False), (False, True)]
    assert handle.created


async def test_without_a_registration_nothing_is_undeclared(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Queues need no declaration, unless somebody has begun to declare them."""
    with caplog.at_level(logging.WARNING, "asyncjobs"):
        async with Jobs(dsn, queues=QueueRegistry()):
            await note.set(queue="anything").later("x")
    assert warnings_of(caplog) == []


# Slots that take only some.


@pytest.mark.seed("Q9")
async def test_threshold_slots(dsn: str) -> None:
    """Q9: "threshold slots with exact default 10,30,50,any×3 reproducible": six jobs that are not urgent get three slots, one of priority 40 the
    next, one of 20 the next, and the last is kept for 10 and below.
    """
    jobs = Jobs(dsn, slots="10,30,50,any,any,any")
    async with jobs.running():
        lazy = await hold_each(jobs, "q", *[100] * 6)
        await held(*lazy[:3])
        await hold_each(jobs, "r", 40, 40)
        await held(*lazy[:3], "r40.0")
        await hold_each(jobs, "s", 20, 20)
        await held(*lazy[:3], "r40.0", "s20.0")
        await hold_each(jobs, "t", 11, 10)
        await held(*lazy[:3], "r40.0", "s20.0", "t10.1")
        release("t10.1")
        await hold_each(jobs, "u", -1)
        await held(*lazy[:3], "r40.0", "s20.0", "t10.1", "u-1.0")
        for _ in range(12):
            release()
            release(*lazy, "r40.1", "s20.1", "t11.0")
        await asyncio.to_thread(eventually, lambda: len(began) == 13)
        await jobs.work_off()


@pytest.mark.seed("Q9")
async def test_urgent_jobs_may_fill_every_slot(dsn: str) -> None:
    """A slot for any priority takes urgent ones, too."""
    jobs = Jobs(dsn, slots="10,30,any")
    async with jobs:
        urgent = await hold_each(jobs, "q", 1, 1, 1, 1)
    async with jobs.running():
        await held(*urgent[:3])
        release(*urgent)
        await jobs.work_off()


@pytest.mark.seed("D7")
async def test_a_range_of_priorities(dsn: str) -> None:
    """D7: "min/max priority; lower = sooner": a runner takes the jobs from one priority to another, and is idle with others waiting."""
    jobs = Jobs(dsn, min_priority=-5, max_priority=10)
    async with jobs:
        handles = {
            priority: await note.set(priority=priority).later(str(priority))
            for priority in (-6, -5, 10, 11, 0)
        }
    async with jobs.running():
        await jobs.work_off()
        assert began == ["-5", "0", "10"] or sorted(began) == ["-5", "0", "10"]
        for priority in (-6, 11):
            assert await handles[priority].status() is JobState.AVAILABLE
        late = await note.set(priority=3).later("late")
        await late.result(timeout=20)
    async with jobs.running(min_priority=-6):
        await jobs.work_off()
    assert "-6" in began
    assert "11" not in began


async def test_what_nobody_here_takes_costs_nothing(dsn: str) -> None:
    """A runner whose slots leave a job to others sleeps, and wakes for its own at once."""
    jobs = Jobs(dsn, max_priority=0, poll=3600)
    async with jobs, AsyncExitStack() as stack:
        await note.set(priority=5).later("not mine")
        await stack.aclose()
    async with jobs.running():
        await runner_of(jobs).connected()
        claimer = runner_of(jobs)._claimer

        async def asleep() -> bool:
            return claimer.is_asleep

        await eventually_async(asleep)
        sent = claimer.sent
        await asyncio.sleep(0.3)
        assert claimer.sent - sent <= 2
        await (await note.set(priority=0).later("mine")).result(timeout=20)
    assert began == ["mine"]


@pytest.mark.seed("D13")
@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a")])
async def test_queues_share_pools(dsn: str, order: Sequence[str]) -> None:
    """D13: "`--pool a,b:2`": two slots for a and b together, one for everything, never more at once."""
    jobs = Jobs(dsn, queues={("a", "b"): 2, "*": 1})
    async with jobs:
        for queue in order:
            await hold_each(jobs, queue, 0, 0, 0)
    async with jobs.running():
        await asyncio.to_thread(eventually, lambda: len(began) == 3)
        assert sum(name[0] == "c" for name in began) <= 1
        release(*(f"{queue}0.{nth}" for queue in "abc" for nth in range(3)))
        await jobs.work_off()
    assert len(began) == 9


# Jobs that wait in the buffer.


@job(kind="test_queues:quick")
async def quick(what: int) -> None: ...


FETCHED_AHEAD = """
create table public.fetched_ahead (id bigint, and_then text, attempt integer);
create function note_it() returns trigger language plpgsql as $$
begin
  insert into public.fetched_ahead values (new.id, case when new.runner is null then 'went back' end, new.attempt);
  return null;
end $$;
create trigger note_it after update on asyncjobs.live_jobs for each row
  when (new.started_at is null and old.started_at is null and (old.runner is null) <> (new.runner is null))
  execute function note_it();
"""
"""Jobs that were claimed and waited for a slot, and those of them that went back."""


@pytest.mark.seed("Q9")
async def test_an_urgent_job_passes_those_that_wait_in_the_buffer(dsn: str) -> None:
    """Q9: "… buffered low-priority job displaced by urgent one and returned untouched (attempt unchanged)": in the buffer it goes
    behind, and what does not begin here goes back unburnt.
    """
    connection = await asyncpg.connect(dsn)
    await connection.execute(FETCHED_AHEAD)

    async def went_back() -> dict[int, int]:
        rows = await connection.fetch("select * from public.fetched_ahead where and_then = 'went back'")
        return {row["id"]: row["attempt"] for row in rows}

    async def is_fetched(job_id: int) -> bool:
        rows = await connection.fetch("select from public.fetched_ahead where id = $1", job_id)
        return bool(rows)

    jobs = Jobs(dsn, slots=1)
    async with jobs.running():
        passed = False
        for each in range(10):  # in a quarter of a second they go back, which is short on a loaded machine
            quickly = [f"{each} quick {nth}" for nth in range(40)]
            release(*quickly)
            for handle in await jobs.enqueue_many([hold.set(queue="q").prepare(name) for name in quickly]):
                await handle.result(timeout=20)  # this kind is quick: more are fetched than can begin
            began.clear()
            await hold.set(queue="q").later(f"{each} blocks")
            await held(f"{each} blocks")
            low = [await hold.set(queue="q", priority=50).later(f"{each} low {nth}") for nth in range(3)]
            with suppress(AssertionError):
                await eventually_async(partial(is_fetched, low[-1].id), within=1)
            urgent = await hold.set(queue="q", priority=-10).later(f"{each} urgent")
            with suppress(AssertionError):
                await eventually_async(partial(is_fetched, urgent.id), within=1)
            release(f"{each} blocks")
            await asyncio.to_thread(eventually, lambda: len(began) == 2)
            waited = [await is_fetched(handle.id) for handle in (*low, urgent)]
            still = not {handle.id for handle in (*low, urgent)} & (await went_back()).keys()
            passed = all(waited) and still and began[1] == f"{each} urgent"
            if passed:
                with suppress(AssertionError):
                    await eventually_async(went_back, within=2)
            release(f"{each} urgent", *(f"{each} low {nth}" for nth in range(3)))
            await jobs.work_off()
            if passed and await went_back():
                break
        assert passed
        assert set((await went_back()).values()) == {0}
    await connection.close()
    async with jobs:
        assert {each.attempt for each in await jobs.list_jobs(limit=1000)} == {1}
