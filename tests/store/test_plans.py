"""The hot statements touch as much as they move, whatever the statistics say.

A queue's statistics are wrong by nature: taken when it was drained, used when 100,000 jobs have arrived. There, other
queues' plans flip and a statement of a millisecond reads the whole table. `random_page_cost` is 4 and autovacuum is off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._store import chores, claims, views
from asyncjobs._store.intake import insert_jobs
from asyncjobs._store.session import Session
from tests.store.jobs import RUNNER, claim, enter, new_job, session_of
from tests.store.plans import cost, fill

MANY = 100_000
BATCH = 100
LANES = [(queue, kind) for queue in ("default", "exports", "mail", "slow") for kind in ("a:A", "b:B", "c:C")]
UNKNOWN = [("default", f"newer:{n}") for n in range(5)]
MODES = ("force_custom_plan", "force_generic_plan")
HOURS = (
    "never analyzed",
    "analyzed when empty",
    "analyzed when drained",
    "analyzed when one lane was full",
    "analyzed when everything was due later",
)

#: Blocks that may be touched per job moved, and besides. Generous by a factor of two to four; a flip costs thousands. To look
#: around steps over the index pages of 100,000 dead entries where the hour has left them.
LIMITS = {
    "insert_jobs": (16, 100),
    "look_around": (0, 2000),
    "claim_jobs of twelve lanes that share a pool": (20, 500),
    "claim_jobs of one lane alone": (10, 200),
    "begin_jobs": (0, 20),
    "finish_jobs": (16, 100),
    "return_jobs": (24, 200),
    "promote_jobs": (24, 200),
    "find_held": (8, 50),
    "seek_suspect": (0, 50),
    "claim_suspect": (16, 100),
}

Step = Callable[[Session], Awaitable[Any]]


async def walk(session: Session) -> dict[str, tuple[int, int]]:
    """Use every hot statement once, on a batch: (jobs moved, blocks touched) of each."""
    touched: dict[str, tuple[int, int]] = {}

    async def measured(name: str, act: Step, moved: Callable[[Any], int] = len) -> Any:
        spent = await cost(session, act)
        touched[name] = moved(spent.result), spent.blocks
        return spent.result

    def nothing(_: object) -> int:
        return 0

    shared = await measured(
        "claim_jobs of twelve lanes that share a pool",
        lambda s: claim(s, lanes=LANES, room=BATCH, shared=True, begin=False),
    )
    alone = await measured("claim_jobs of one lane alone", lambda s: claim(s, lanes=LANES[:1], room=BATCH))
    await measured(
        "begin_jobs",
        lambda s: claims.begin_jobs(s, RUNNER, [claims.Claim(job.id, job.token) for job in shared]),
        nothing,
    )
    await measured(
        "find_held",
        lambda s: claims.find_held(s, RUNNER, [claims.Claim(job.id, job.token) for job in shared]),
    )
    done = [Finished(job, FinalState.COMPLETED, 0.1, result="1") for job in alone]
    await measured("finish_jobs", lambda s: claims.finish_jobs(s, RUNNER, done))
    back = [Returned(job, LiveState.RETRYABLE, delay=0.0, error='{"attempt": 1}') for job in shared]
    await measured("return_jobs", lambda s: claims.return_jobs(s, RUNNER, back))
    await measured("promote_jobs", lambda s: chores.promote_jobs(s, BATCH), lambda lanes: sum(lanes.values()))
    await session.connection.execute(
        "update asyncjobs.live_jobs set state = 4, crashes = 1 where id in (select id from asyncjobs.live_jobs "
        "where state = 0 and runner is null and id > 0 and kind = 'a:A' limit 3)"
    )
    caution = claims.Caution(alone=0.0)
    await measured("seek_suspect", lambda s: claims.seek_suspect(s, [""], ["a:A"], caution), nothing)
    await measured(
        "claim_suspect",
        lambda s: claims.claim_suspect(s, RUNNER, [""], ["a:A"], caution),
        lambda found: 0 if found is None else 1,
    )
    for _ in range(3):  # the first to pass marks the dead entries it steps over
        await measured("look_around", claims.look_around, nothing)
    jobs = [new_job(kind, queue) for queue, kind in LANES for _ in range(BATCH // len(LANES))]
    await measured("insert_jobs", lambda s: insert_jobs(s, jobs))
    return touched


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("queues", [None, ["default", "mail"]])
async def test_a_walk_reads_what_it_returns(dsn: str, mode: str, queues: list[str] | None) -> None:
    """`check` reads a long table in pieces, along its ids: none costs more for those before or behind it."""
    async with session_of(dsn, plan_cache_mode=mode) as session:
        await fill(session, LANES, 20_000)
        first = await session.connection.fetchval("select min(id) from asyncjobs.live_jobs where id > 0")
        for _ in range(6):  # the plan for any parameters is made at the sixth
            spent = await cost(session, lambda s: views.walk_jobs(s, first + 9_999, BATCH, queues))
        assert len(spent.result) == BATCH
        assert spent.result[0].id >= first + 10_000
        assert spent.blocks < 100


async def empty(session: Session) -> None:
    await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")


async def forget_statistics(session: Session) -> None:
    """As in a database that was never analyzed, or has just been upgraded."""
    await session.connection.execute("""
        delete from pg_statistic where starelid = 'asyncjobs.live_jobs'::regclass;
        update pg_class set reltuples = -1, relpages = 0, relallvisible = 0
         where oid = 'asyncjobs.live_jobs'::regclass
            or oid in (select indexrelid from pg_index where indrelid = 'asyncjobs.live_jobs'::regclass);
    """)


async def arrive(session: Session) -> None:
    await fill(session, UNKNOWN, MANY // 4)
    await fill(session, LANES, MANY // 2)
    await fill(session, LANES, MANY // 4, due_in="1 day")


@pytest.fixture(scope="module")
async def touched(
    databases: Any, migrated: str
) -> AsyncIterator[dict[tuple[str, str, str], dict[str, tuple[int, int]]]]:
    """What `walk` touched, by hour, plan mode, and with how many jobs in the table."""
    seen: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = {}
    async with databases.clone(migrated) as dsn:
        async with (
            session_of(dsn, plan_cache_mode=MODES[0], synchronous_commit="on") as custom,
            session_of(dsn, plan_cache_mode=MODES[1], synchronous_commit="on") as generic,
        ):
            by_mode = {MODES[0]: custom, MODES[1]: generic}
            await enter(custom)
            await forget_statistics(custom)

            async def pass_hour(hour: str) -> None:
                for mode, session in by_mode.items():
                    seen[hour, mode, "0"] = await walk(session)  # and the generic plan is cached
                    await empty(custom)
                await arrive(custom)
                for mode, session in by_mode.items():
                    seen[hour, mode, "100k"] = await walk(session)

            await pass_hour("never analyzed")
            await empty(custom)
            await custom.connection.execute("vacuum (full, analyze) asyncjobs.live_jobs")
            await pass_hour("analyzed when empty")
            await empty(custom)
            await custom.connection.execute("vacuum (analyze) asyncjobs.live_jobs")
            await pass_hour("analyzed when drained")
            await empty(custom)
            await fill(custom, [("gone", "gone:Gone")], MANY)
            await custom.connection.execute("vacuum (analyze) asyncjobs.live_jobs")
            await empty(custom)
            await pass_hour("analyzed when one lane was full")
            await empty(custom)
            await fill(custom, LANES, MANY, due_in="1 day")
            await custom.connection.execute("vacuum (analyze) asyncjobs.live_jobs")
            await empty(custom)
            await pass_hour("analyzed when everything was due later")
        yield seen


@pytest.mark.parametrize("rows", ["0", "100k"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hour", HOURS)
@pytest.mark.parametrize("statement", LIMITS)
async def test_a_hot_statement_touches_what_it_moves(
    touched: dict[tuple[str, str, str], dict[str, tuple[int, int]]],
    statement: str,
    hour: str,
    mode: str,
    rows: str,
) -> None:
    """With stale statistics, custom or generic, at 0 and 100,000 jobs, no statement reads the table."""
    moved, blocks = touched[hour, mode, rows][statement]
    per_job, besides = LIMITS[statement]
    if rows == "100k" and per_job:
        assert moved >= (1 if statement == "claim_suspect" else BATCH * 0.9)
    assert blocks <= per_job * moved + besides
