"""One row the database will not take, for whatever reason, holds up neither the others nor their rescue."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from asyncjobs import Jobs, job
from asyncjobs._keeper.sweep import Sweep
from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import Watcher, running, watching
from tests.store.jobs import claim, enter, live, new_job, store
from tests.waiting import eventually_async

ran: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    ran.clear()
    monkeypatch.setattr("asyncjobs._engine.completer.AGAIN_AFTER", 0.2)


@job(kind="stubborn:work", max_attempts=1)
async def work(name: str) -> str:
    ran[name] += 1
    if name.startswith("fails"):
        raise ValueError(name)
    return name


IN_THE_WAY = """
create function refuse() returns trigger language plpgsql as $$
begin
  if coalesce(new.args, old.args) ->> 'name' like '%refused' then
    raise exception 'not this one';
  end if;
  return coalesce(new, old);
end $$;
create trigger refuse before insert or update or delete on asyncjobs.{table} for each row execute function refuse();
"""


@pytest.mark.failure_mode("F77")
@pytest.mark.parametrize("what", ["is refused", "fails and is refused"])
async def test_an_outcome_that_cannot_be_written_holds_up_no_other(dsn: str, what: str) -> None:
    """It is tried again until it can; nothing is run twice, and the job's result is kept as it is."""
    async with running(dsn) as jobs, watching(dsn) as other:
        await other.connection.execute(IN_THE_WAY.format(table="finished_jobs"))
        refused = await work.later(what)
        others = [await work.later(f"job {number}") for number in range(20)]
        for handle in others:
            await handle.result(timeout=10)
        await asyncio.sleep(0.5)
        assert (await refused.status()).value == "running"
        await (await work.later("afterwards")).result(timeout=10)
        await other.connection.execute("drop trigger refuse on asyncjobs.finished_jobs")

        async def finished() -> bool:
            return (await refused.status()).is_final

        await eventually_async(finished, within=10)
        done = await jobs.get_job(refused.id)
        assert done is not None
        assert done.result == (what if what == "is refused" else None)
        assert [error.error for error in done.errors] == (
            [] if what == "is refused" else [f"ValueError: {what}"]
        )
        assert set(ran.values()) == {1}


async def test_a_runner_stops_in_time_with_an_outcome_it_cannot_write(dsn: str) -> None:
    """It is said, and the job is rescued when the runner is gone."""
    async with watching(dsn) as other:
        await other.connection.execute(IN_THE_WAY.format(table="finished_jobs"))
        began = asyncio.get_running_loop().time()
        async with running(dsn, shutdown_timeout=2.0):
            refused = await work.later("is refused")
            handle = await work.later("other")
            await handle.result(timeout=10)
        assert asyncio.get_running_loop().time() - began < 5
        async with Jobs(dsn) as jobs:
            waiting = await jobs.get_job(refused.id)
            assert waiting is not None
            assert waiting.state.value == "running"
        assert await other.connection.fetchval("select count(*) from asyncjobs.runners") == 1


@pytest.mark.failure_mode("F77")
async def test_a_runner_that_cannot_be_rescued_holds_up_no_other(dsn: str) -> None:
    """Nor the sweep, which goes on looking."""
    async with watching(dsn) as other:
        await enter(other.session, 7, holds_lock=True)
        (refused,) = await store(other.session, new_job(args='{"name": "is refused"}'))
        await claim(other.session, 7)
        await enter(other.session, 9, holds_lock=True)
        (fine,) = await store(other.session)
        await claim(other.session, 9)
        await other.connection.execute(IN_THE_WAY.format(table="live_jobs"))
        sweep = Sweep(other.session, Vigilance(look_every=0.02, settle=0.0))
        await looks(sweep)
        assert await is_rescued(other, fine)
        assert not await is_rescued(other, refused)
        await other.connection.execute("drop trigger refuse on asyncjobs.live_jobs")
        await looks(sweep)
        assert await is_rescued(other, refused)


async def looks(sweep: Sweep) -> None:
    for _ in range(4):
        await sweep.look(1)
        await asyncio.sleep(0.02)


async def is_rescued(other: Watcher, job_id: int) -> bool:
    row = await live(other.session, job_id)
    assert row
    return row["runner"] is None
