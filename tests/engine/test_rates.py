"""Rates by key, over all processes: so many tokens begin in a time, and who must wait costs nobody anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import attrs
import pytest

from asyncjobs import InvalidDefinition, InvalidInput, InvalidOption, Jobs, JobState, Later, Lock, Rate, job
from asyncjobs._store.rates import find_rate
from tests.engine.running import running, watching
from tests.waiting import eventually_async

gate: asyncio.Event
now = most = 0


@pytest.fixture(autouse=True)
def afresh() -> None:
    global gate, now, most
    gate = asyncio.Event()
    now = most = 0


@job(kind="test_rates:call")
async def call(tenant: str, wait: bool = False) -> None:
    global now, most
    now += 1
    most = max(most, now)
    try:
        if wait:
            await gate.wait()
    finally:
        now -= 1


@job(kind="test_rates:beside")
async def beside() -> None: ...


@job(kind="test_rates:read")
async def read(tenant: str, pages: int) -> None: ...


@job(kind="test_rates:fails", max_attempts=3, backoff=0.0, rate=Rate(2, per=3600))
async def fails() -> None:
    raise RuntimeError


@attrs.frozen
class Fetch(
    Later, kind="test_rates:Fetch", rate=Rate(1, per=3600, by="host", weight="size", namespace="shared")
):
    url: str

    @property
    def host(self) -> str:
        return self.url.partition("/")[0]

    def size(self) -> int:
        return len(self.url.partition("/")[2])

    async def call(self) -> None: ...


async def starts(dsn: str) -> list[tuple[datetime, str, int]]:
    """When each that is done began, as the database says, of whom, and its weight."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select started_at, args->>'tenant' as tenant, coalesce((args->>'pages')::integer, 1) as weight, attempt"
            "  from asyncjobs.finished_jobs order by started_at"
        )
        assert {row["attempt"] for row in rows} <= {1}
        return [(row["started_at"], row["tenant"], row["weight"]) for row in rows]
    finally:
        await connection.close()


def fullest(begun: Sequence[tuple[datetime, str, int]], seconds: float) -> int:
    """The most tokens of any window of that length."""
    times = [(at.timestamp(), weight) for at, _, weight in begun]
    return max(
        sum(weight for at, weight in times[first:] if at - start < seconds - 0.000_003)
        for first, (start, _) in enumerate(times)
    )


async def is_done(jobs: Jobs) -> bool:
    counts = await jobs.count_jobs()
    return all(state.is_final for by_state in counts.values() for state, many in by_state.items() if many)


async def state_of(jobs: Jobs, job_id: int) -> JobState | None:
    found = await jobs.get_job(job_id)
    return None if found is None else found.state


async def test_no_window_of_any_key_is_exceeded_and_all_of_it_is_used(dsn: str) -> None:
    """A bucket, a sliding and a fixed window, with weights, on three runners: read from when each began."""
    rates = {
        "bucket": Rate(20, per=0.5, burst=5, by="tenant", weight="pages"),
        "sliding": Rate(20, per=0.5, window="sliding", by="tenant", weight="pages"),
        "fixed": Rate(20, per=0.5, window="fixed", by="tenant", weight="pages"),
    }
    weights = (1, 3, 5, 2, 4)
    async with Jobs(dsn) as first:
        await first.enqueue_many(
            read.set(rate=rate).prepare(tenant, weights[n % 5])
            for n in range(20)
            for tenant, rate in rates.items()
        )
    async with running(dsn, slots=10) as jobs, Jobs(dsn, slots=10).running(), Jobs(dsn, slots=10).running():
        await eventually_async(lambda: is_done(jobs))
    begun = await starts(dsn)
    spans = {}
    for name in rates:
        of_it = [each for each in begun if each[1] == name]
        assert sum(weight for *_, weight in of_it) == 60
        spans[name] = (of_it[-1][0] - of_it[0][0]).total_seconds()
        if name == "bucket":
            for seconds in (0.05, 0.1, 0.5, 1.0):
                assert fullest(of_it, seconds) <= 5 + 40 * seconds
        if name == "sliding":
            assert fullest(of_it, 0.5) <= 20
        if name == "fixed":
            windows: dict[float, int] = {}
            for at, _, weight in of_it:
                window = at.timestamp() // 0.5
                windows[window] = windows.get(window, 0) + weight
            assert max(windows.values()) <= 20
    # 60 tokens at 40 a second, and generous: the machine may have other things to do.
    assert 1.3 < spans["bucket"] < 15
    assert 0.9 < spans["sliding"] < 15
    assert 0.4 < spans["fixed"] < 15


async def test_who_waits_costs_no_claims_and_other_keys_nothing(dsn: str) -> None:
    """A hundred of one tenant wait, blocked, and are looked at no more; another's one and jobs without a rate run meanwhile."""
    limited = call.set(rate=Rate(2, per=3600, by="tenant"))
    async with running(dsn, slots=5) as jobs, watching(dsn) as watcher:
        await jobs.enqueue_many(limited.prepare("acme") for _ in range(100))

        async def in_line(count: int) -> bool:
            return (await jobs.count_jobs())["default"].get(JobState.BLOCKED) == count

        await eventually_async(lambda: in_line(98))
        await (await limited.later("ann")).result(timeout=20)
        await (await beside.later()).result(timeout=20)
        claimed = "select sum(token) from asyncjobs.live_jobs where id > 0"
        before = await watcher.connection.fetchval(claimed)
        await watcher.until_idle()
        await (await beside.later()).result(timeout=20)
        assert await watcher.connection.fetchval(claimed) == before
        assert before < 98


async def test_the_urgent_goes_before_those_that_wait(dsn: str) -> None:
    """It waits in the same line, in its place; people see what for."""
    limited = call.set(rate=Rate(1, per=3600, by="tenant"))
    async with running(dsn) as jobs:
        await (await limited.later("acme")).result(timeout=20)
        first = await limited.later("acme")
        await eventually_async(lambda: is_blocked(jobs, first.id))
        urgent = await limited.set(priority=-1).later("acme")
        await eventually_async(lambda: is_blocked(jobs, urgent.id))
        waits = await jobs.ask(find_rate, first.id)
        assert waits is not None
        assert (waits.weight, waits.capacity, waits.tokens_left, waits.before) == (1, 1, 0, 1)
        assert await first.cancel()


async def is_blocked(jobs: Jobs, job_id: int) -> bool:
    return await state_of(jobs, job_id) is JobState.BLOCKED


async def test_each_attempt_takes_its_tokens(dsn: str) -> None:
    """The third of three attempts waits for the third token."""
    async with running(dsn) as jobs:
        handle = await fails.later()
        await eventually_async(lambda: is_blocked(jobs, handle.id))
        found = await jobs.get_job(handle.id)
        assert found is not None
        assert (found.attempt, len(found.errors)) == (2, 2)


async def test_a_lock_and_a_rate_both_hold(dsn: str) -> None:
    """One at a time, and so many in a time; when the rate makes it wait its lock is free."""
    both = call.set(lock=Lock("tenant"), rate=Rate(4, per=0.2, window="sliding", by="tenant"))
    async with running(dsn, slots=10) as jobs, Jobs(dsn, slots=10).running():
        await jobs.enqueue_many(both.prepare("acme") for _ in range(12))
        await eventually_async(lambda: is_done(jobs))
    assert most == 1
    assert fullest(await starts(dsn), 0.2) <= 4


async def test_turns_and_a_rate_both_hold(dsn: str) -> None:
    """Each tenant's jobs have turns, and all of them together their tokens; nothing is left in any line."""
    fair = call.set(fair="tenant", rate=Rate(4, per=0.2, window="sliding"))
    async with Jobs(dsn) as first:
        await first.enqueue_many(fair.prepare(tenant) for tenant in ("acme", "ann") for _ in range(8))
    async with running(dsn, slots=4) as jobs, Jobs(dsn, slots=4).running():
        await eventually_async(lambda: is_done(jobs))
    begun = await starts(dsn)
    assert fullest(begun, 0.2) <= 4
    assert {tenant for _, tenant, _ in begun[:8]} == {"acme", "ann"}


async def test_who_waits_for_tokens_is_still_unique(dsn: str) -> None:
    """It has not started: a duplicate is one, until it begins."""
    once = call.set(unique="tenant", rate=Rate(1, per=3600))
    async with running(dsn) as jobs:
        await (await once.later("acme")).result(timeout=20)
        waits = await once.later("acme")
        await eventually_async(lambda: is_blocked(jobs, waits.id))
        again = await once.later("acme")
        assert (again.created, again.id) == (False, waits.id)
        assert await waits.cancel()


async def test_a_limited_queue_and_a_rate_both_hold(dsn: str) -> None:
    """Places and tokens of the queue's window, tokens of the key."""
    limited = call.set(queue="test_rates_narrow", rate=Rate(4, per=0.2, by="tenant", window="sliding"))
    async with running(dsn, slots=10) as jobs, Jobs(dsn, slots=10).running():
        await jobs.limit("test_rates_narrow", concurrency=2, rate=Rate(3, per=0.2, window="sliding"))
        assert (await jobs.limits())["test_rates_narrow"].rate == Rate(3, per=0.2, window="sliding")
        await jobs.enqueue_many(limited.prepare("acme") for _ in range(9))
        await eventually_async(lambda: is_done(jobs))
    assert most <= 2
    assert fullest(await starts(dsn), 0.2) <= 3


async def test_a_rate_is_shared_inside_its_namespace(dsn: str) -> None:
    """By kinds that name the same, for equal values; the weight may be computed."""
    async with running(dsn) as jobs:
        await (await Fetch("a.org/x").later("call")).result(timeout=20)
        again = await call.set(rate=Rate(1, per=3600, by="tenant", namespace="shared")).later("a.org")
        await again.result(timeout=20)  # by another name it is another key
        other = await Fetch("b.org/x").later("call")
        await other.result(timeout=20)
        waits = await Fetch("a.org/y").later("call")
        await eventually_async(lambda: is_blocked(jobs, waits.id))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Rate(5, per=1, window="rolling"), "'sliding' or 'fixed'"),  # type: ignore[arg-type]
        (lambda: Rate(5, per=1, window="fixed", burst=2), "burst=2 is of a bucket"),
        (lambda: Rate(5, per=1, weight=0), "weight=0"),
        (lambda: Rate(5, per=1, weight=-1), "weight=-1"),
        (lambda: Rate(5, per=1, weight=1.5), "weight=1.5"),  # type: ignore[arg-type]
        (lambda: Rate(5, per=1, weight=True), "weight=True"),
        (lambda: Rate(5, per=1, weight=6), "more than the 5 tokens it ever holds"),
        (lambda: Rate(5, per=1, burst=2, weight=3), "more than the 2 tokens it ever holds"),
        (lambda: Rate(5, per=1, window=["fixed"]), "is no window"),  # type: ignore[arg-type]
        (lambda: Rate(5, per=1, by=[]), "or leave it out"),
        (lambda: Rate(5, per=1, by=3), "or leave it out"),  # type: ignore[arg-type]
        (lambda: Rate(5, per=1, by=True), "by=True"),  # type: ignore[arg-type]
        (lambda: Rate(5, per=1, by=("a", "a")), "twice"),
        (lambda: Rate(5, per=0.0001, window="sliding"), "too short for a window"),
        (lambda: Rate(1, per=10**9, burst=10**6), "a century"),
        (lambda: call.set(rate="100/m"), "is no rate"),  # type: ignore[arg-type]
        (lambda: call.set(rate=Rate(1), rat=2), "did you mean 'rate'"),  # type: ignore[call-arg]
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(wrong: Any, says: str) -> None:
    """Where it is said, in a sentence that says what to do."""
    with pytest.raises(InvalidOption, match=says):
        wrong()


async def test_a_weight_that_is_none_is_refused_where_the_job_is_stored(dsn: str) -> None:
    """Zero, less, no number, or more than the rate ever holds: in the caller; and names that are none where they are said."""
    async with Jobs(dsn):
        weighs = read.set(rate=Rate(5, per=1, by="tenant", weight="pages"))
        for wrong, says in ((0, "cannot weigh 0"), (-1, "cannot weigh -1"), (6, "never holds more than 5")):
            with pytest.raises(InvalidInput, match=says):
                await weighs.later("acme", wrong)
        with pytest.raises(InvalidInput, match="cannot weigh 'acme'"):
            await read.set(rate=Rate(5, weight="tenant")).later("acme", 1)
        with pytest.raises(InvalidDefinition, match="did you mean 'pages'"):
            await read.set(rate=Rate(5, weight="page")).later("acme", 1)
        with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):
            job(kind="test_rates:wrong", rate=Rate(5, by="tenants"))(read.function)


@pytest.mark.parametrize("word", [{"by": "tenant"}, {"weight": 2}, {"weight": "pages"}, {"namespace": "n"}])
async def test_what_is_of_a_jobs_rate_is_refused_of_a_queues(dsn: str, word: Any) -> None:
    """Which counts jobs, each as one."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidOption, match="are of the rate of a job"):
            await jobs.limit("test_rates_narrow", rate=Rate(5, **word))
