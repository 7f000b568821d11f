"""Turns: what waits in line is nobody's to claim, and is dealt to the keys of a queue one after the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncjobs._model.job import Lane
from asyncjobs._model.outcome import Finished, Returned
from asyncjobs._model.states import FinalState, JobState, LiveState
from asyncjobs._model.urgency import EVERY_PRIORITY, Urgency
from asyncjobs._store.chores import promote_jobs, rescue_jobs
from asyncjobs._store.claims import finish_jobs, look_around, return_jobs
from asyncjobs._store.clearing import clear_jobs, find_overdue
from asyncjobs._store.session import Session
from asyncjobs._store.turns import deal_turns
from asyncjobs._store.unique import insert_unique
from asyncjobs._store.views import cancel_job, get_job, pause_queue, retry_job
from tests.store.jobs import RUNNER, claim, enter, live, new_job, session_of, store
from tests.store.plans import cost


def of(key: str, **given: Any) -> Any:
    return new_job(fair_key=key, **given)


async def deal(
    session: Session,
    wanted: int = 100,
    *,
    queues: tuple[str, ...] = ("",),
    kinds: tuple[str, ...] = ("k",),
    urgency: Urgency = EVERY_PRIORITY,
) -> dict[Lane, int]:
    return await deal_turns(session, list(queues), list(kinds), urgency, wanted)


async def claimed(session: Session, room: int = 100, **given: Any) -> list[int]:
    return [job.id for job in await claim(session, room=room, **given)]


async def key_of(session: Session, job_id: int) -> str:
    row = await live(session, job_id)
    assert row is not None
    return str(row["fair_key"])


async def state_of(session: Session, job_id: int) -> int:
    row = await live(session, job_id)
    assert row is not None
    return int(row["state"])


async def test_what_waits_in_line_is_nobodys_to_claim(dsn: str) -> None:
    """Until it is dealt: available to people, and neither in a claim nor in the lanes that a look finds."""
    async with session_of(dsn) as session:
        (first,) = await store(session, of("a"))
        assert await claim(session) == []
        around = await look_around(session)
        assert (around.lanes, around.in_line) == ([], True)
        seen = await get_job(session, first)
        assert seen is not None and seen.state is JobState.AVAILABLE
        assert await deal(session) == {Lane("q", "k"): 1}
        assert (await look_around(session)).in_line is False
        assert await claimed(session) == [first]
        assert await deal(session) == {}


async def test_each_key_has_a_turn_before_any_has_two(dsn: str) -> None:
    """Many of one, then a few of others: they come in the first rounds, in the order of their line."""
    async with session_of(dsn) as session:
        many = await store(session, *[of("m") for _ in range(50)])
        few = await store(session, *[of(key) for key in "aazz"])
        assert await deal(session, 8) == {Lane("q", "k"): 8}
        got = await claimed(session)
        assert len(got) == 8
        assert got[:3] == [few[0], many[0], few[2]]
        assert got[3:6] == [few[1], many[1], few[3]]
        assert got[6:] == many[2:4]


async def test_the_round_goes_on_where_it_was(dsn: str) -> None:
    """However few are dealt at a time."""
    async with session_of(dsn) as session:
        await store(session, *[of(key) for key in "aaabbbccc"])
        order = ""
        for wanted in (1, 2, 1, 1, 2, 1, 1):
            await deal(session, wanted)
            for job_id in await claimed(session):
                order += await key_of(session, job_id)
        assert order == "abcabcabc"


async def test_a_key_that_comes_anew_waits_for_one_round(dsn: str) -> None:
    """Whatever it sorts by, behind or before the last turn."""
    async with session_of(dsn) as session:
        await store(session, *[of(key) for key in "bbbbdddd"])
        await deal(session, 3)
        await claim(session)
        for new in "ace":
            (mine,) = await store(session, of(new))
            await deal(session, 3)
            assert mine in await claimed(session), new


async def test_beside_jobs_without_a_key_all_of_them_are_as_old_as_they_are(dsn: str) -> None:
    """Who has no key and came before goes before; who came later waits, and not for those with a key that came still later."""
    async with session_of(dsn) as session:
        before = await store(session, new_job(), new_job())
        keyed = await store(session, of("a"), of("a"), of("a"))
        between = await store(session, new_job(), new_job())
        keyed += await store(session, of("b"))
        await deal(session, 4)
        late = await store(session, of("a"), of("a"))
        assert await claimed(session, 4) == [*before, keyed[0], keyed[3]]
        await deal(session, 4)
        assert await claimed(session) == [keyed[1], keyed[2], *between, *late]


async def test_priority_goes_before_turns(dsn: str) -> None:
    """The more urgent of all keys first, and a round of their own for each priority."""
    async with session_of(dsn) as session:
        ids = await store(
            session,
            of("a"),
            of("a"),
            of("b"),
            of("b", priority=-1),
            of("b", priority=-1),
            of("a", priority=-1),
        )
        await deal(session, 4)
        got = await claimed(session)
        assert (set(got[:3]), got[3]) == (set(ids[3:]), ids[0])
        assert got[:2] == [ids[5], ids[3]]


async def test_urgent_ones_now_and_then_do_not_take_the_others_turns(dsn: str) -> None:
    """A round is of one priority: who is asked for in between is no one's turn there."""
    async with session_of(dsn) as session:
        await store(session, *[of(key) for key in "aaabbbccc"])
        order = ""
        for _ in range(9):
            await store(session, of("a", priority=-5))
            await deal(session, 2)
            _, second = await claimed(session)
            order += await key_of(session, second)
        assert order == "abcabcabc"


async def test_no_more_lie_ready_than_are_wanted(dsn: str) -> None:
    """Whoever deals, however often; and when some were claimed, as many more."""
    async with session_of(dsn) as session, session_of(dsn) as other:
        await store(session, *[of(key) for key in "ab" * 30])
        assert sum((await deal(session, 10)).values()) == 10
        assert sum((await deal(session, 10)).values()) == 0
        assert sum((await deal(other, 12)).values()) == 2
        assert len(await claimed(session, 7)) == 7
        assert sum((await deal(other, 10)).values()) == 5
        found = await asyncio.gather(*(deal(each, 20) for each in (session, other)))
        assert sum(sum(each.values()) for each in found) == 10


async def test_many_priorities_do_not_lie_ready_at_once(dsn: str) -> None:
    """As many as are wanted, the most urgent."""
    async with session_of(dsn) as session:
        ids = await store(session, *[of("a", priority=number) for number in range(20)])
        await deal(session, 5)
        assert await claimed(session) == ids[:5]


async def test_only_what_the_runner_takes_is_dealt(dsn: str) -> None:
    """Its queues, its kinds, its priorities; a line it cannot serve is named all the same."""
    async with session_of(dsn) as session:
        await store(session, of("a"), of("a", kind="l"), of("a", queue="r"), of("a", priority=9))
        assert await deal(session, queues=("r",)) == {Lane("r", "k"): 1}
        assert await deal(session, queues=("q",), kinds=("l",)) == {Lane("q", "k"): 0, Lane("q", "l"): 1}
        assert await deal(session, urgency=Urgency(5, 20)) == {Lane("q", "k"): 1}
        assert await deal(session, kinds=("z",)) == {Lane("q", "k"): 0}
        assert await deal(session) == {Lane("q", "k"): 1}


async def test_a_key_has_one_turn_whatever_the_kinds_of_its_jobs(dsn: str) -> None:
    """Of two kinds in one queue, the older first."""
    async with session_of(dsn) as session:
        a = await store(session, *[of("a", kind=kind) for kind in "lklk"])
        b = await store(session, *[of("b", kind="k") for _ in range(4)])
        await deal(session, 8, kinds=("k", "l"))
        jobs = await claim(session, lanes=(("q", "k"), ("q", "l")), shared=True)
        assert [job.id for job in jobs] == [each for pair in zip(a, b, strict=True) for each in pair]


async def test_who_knows_other_kinds_goes_round_by_itself(dsn: str) -> None:
    """Else two that deal in turns would each serve one key only."""
    async with session_of(dsn) as session:
        await store(session, *[of(key, kind=kind) for key in "ab" for kind in "kl" for _ in range(4)])
        order: dict[str, str] = {"k": "", "l": ""}
        for _ in range(4):
            for kind in "kl":
                await deal(session, 1, kinds=(kind,))
                (job_id,) = await claimed(session, lanes=(("q", kind),))
                order[kind] += await key_of(session, job_id)
        assert order == {"k": "abab", "l": "abab"}


async def test_a_round_nobody_has_gone_for_a_day_is_forgotten(dsn: str) -> None:
    """When new code begins its own: code that is gone leaves nothing behind for ever."""
    async with session_of(dsn) as session:
        await session.connection.execute(
            "insert into asyncjobs.turns (queue, priority, known, dealt_at) values"
            " ('q', 0, 1, now() - interval '2 days'), ('q', 0, 2, now()), ('r', 0, 3, now() - interval '2 days')"
        )
        await store(session, of("a"))
        await deal(session)
        connection: Any = session.connection
        rows = await connection.fetch(
            "select known from asyncjobs.turns where known < 4 and known > 0 order by known"
        )
        assert [row[0] for row in rows] == [2, 3]


async def test_nothing_is_dealt_to_a_paused_queue(dsn: str) -> None:
    """Its lines wait."""
    async with session_of(dsn) as session:
        await store(session, of("a"))
        await pause_queue(session, "q")
        assert await deal(session) == {}


async def test_a_delay_a_retry_and_a_requeue_end_in_line(dsn: str) -> None:
    """Who had a turn and comes back stands in line again; who was given back keeps the turn."""
    async with session_of(dsn) as session:
        later, *ids = await store(session, of("a", delay=0.001), *[of("a") for _ in range(4)])
        assert await state_of(session, later) == LiveState.SCHEDULED
        await asyncio.sleep(0.002)
        await promote_jobs(session, 10)
        assert await state_of(session, later) == LiveState.IN_LINE
        await deal(session)
        jobs = await claim(session)
        retried, requeued, released, snoozed, _ = jobs
        await return_jobs(
            session,
            RUNNER,
            [
                Returned(retried, LiveState.RETRYABLE, 0.0, error="{}"),
                Returned(requeued, LiveState.READY, 0.0),
                Returned(released, LiveState.READY, None, unburnt=True),
                Returned(snoozed, LiveState.SCHEDULED, 0.0),
            ],
        )
        assert await state_of(session, requeued.id) == LiveState.IN_LINE
        assert await state_of(session, released.id) == LiveState.READY
        await promote_jobs(session, 10)
        assert await state_of(session, retried.id) == LiveState.IN_LINE
        assert await state_of(session, snoozed.id) == LiveState.IN_LINE
        assert await claimed(session) == [released.id]


async def test_a_finished_one_that_runs_again_stands_in_line(dsn: str) -> None:
    """With the key it had; and one that waits for its time is hurried into its line."""
    async with session_of(dsn) as session:
        done, later = await store(session, of("a", options={"fair": "a"}), of("a", delay=60))
        await deal(session)
        (job,) = await claim(session)
        await finish_jobs(session, RUNNER, [Finished(job, FinalState.FAILED, 0.1)])
        for job_id in (done, later):
            assert await retry_job(session, job_id) == "q"
            assert (await state_of(session, job_id), await key_of(session, job_id)) == (
                LiveState.IN_LINE,
                "a",
            )


async def test_a_crash_takes_it_out_of_line(dsn: str) -> None:
    """One that had begun waits to run alone, as any other; one that had not has its turn still."""
    async with session_of(dsn) as session:
        await enter(session)
        first, second = await store(session, of("a"), of("a"))
        await deal(session)
        await claim(session, room=1)
        await claim(session, room=1, begin=False)
        await rescue_jobs(session, RUNNER, blame=True, max_crashes=3, error="{}")
        assert await state_of(session, first) == LiveState.SUSPECTED
        assert await state_of(session, second) == LiveState.READY


async def test_one_in_line_is_cancelled_cleared_and_overdue_as_any_other(dsn: str) -> None:
    """It waits, and nobody runs it."""
    async with session_of(dsn) as session:
        first, _ = await store(session, of("a"), of("a"))
        assert [(each.queue, each.jobs) for each in await find_overdue(session, 0.0)] == [("q", 2)]
        assert await cancel_job(session, first) == "cancelled"
        assert await clear_jobs(session, ["q"]) == 1
        assert await deal(session) == {}


@pytest.mark.parametrize("key", ["b", None])
async def test_one_whose_inputs_are_replaced_waits_for_the_turn_of_its_new_key(
    dsn: str, key: str | None
) -> None:
    """Or for none, where it has none any more."""
    async with session_of(dsn) as session:
        first, other = await store(session, of("a", unique_key="u"), of("a"))
        new = new_job(unique_key="u", fair_key=key, on_conflict=("replace",))
        ((job_id, created),) = await insert_unique(session, [new], wake=True, commits_itself=True)
        assert (job_id, created) == (first, False)
        if key is None:
            assert await claimed(session) == [first]
        else:
            assert await claimed(session) == []
            await deal(session)
            assert await claimed(session) == [other, first]


async def test_one_that_somebody_changes_is_passed_by(dsn: str) -> None:
    """Nobody waits for a transaction of somebody else's: the next of its key has the turn."""
    async with session_of(dsn) as session, session_of(dsn) as somebody:
        first, second, _ = await store(session, of("a"), of("a"), of("b"))
        transaction: Any = somebody.connection
        async with transaction.transaction():
            await somebody.connection.execute(
                "select from asyncjobs.live_jobs where id = $1 for update", first
            )
            await session.connection.execute("set lock_timeout = '100 ms'")
            await deal(session, 1)
            assert await claimed(session) == [second]
        await deal(session)
        assert first in await claimed(session)


async def test_a_dealer_is_told_of_by_the_idle(dsn: str) -> None:
    """Who has slots is woken for what another dealt."""
    async with session_of(dsn) as session, session_of(dsn) as idle:
        heard: list[str] = []
        connection: Any = idle.connection
        await connection.add_listener("asyncjobs:ready", lambda *said: heard.append(said[3]))
        await connection.execute("select pg_advisory_lock_shared(1634364777, hashtext('asyncjobs:q'))")
        await session.connection.execute(
            "insert into asyncjobs.live_jobs (queue, kind, args, state, fair_key) values ('q', 'k', '{}', 5, 'a')"
        )
        await deal(session)
        await connection.fetchval("select 1")
        assert heard == ["q"]


MANY = 30_000
LINE = """
insert into asyncjobs.live_jobs (queue, kind, args, fair_key, state)
select 'q', 'k', '{}', 'hot', 5 from generate_series(1, $1::integer)
"""


@pytest.mark.parametrize("analyzed", [False, True])
async def test_who_is_next_is_found_among_any_number(dsn: str, analyzed: bool) -> None:
    """Dealing touches a few blocks, not the 30,000 that wait, and claims and looks touch what they touch without them."""
    async with session_of(dsn) as session:
        for _ in range(2):
            await store(session, *[new_job() for _ in range(100)])
            alone = [await cost(session, look_around), await cost(session, lambda s: claim(s, room=100))]
            await session.connection.execute("delete from asyncjobs.live_jobs where id > 0")
        await session.connection.execute(LINE, MANY)
        if analyzed:
            await session.connection.execute("vacuum (analyze) asyncjobs.live_jobs")
        await store(session, *[of(f"few {number}") for number in range(5)])
        dealt = await cost(session, lambda s: deal(s, 10))
        again = await cost(session, lambda s: deal(s, 10))
        assert len(await claimed(session, 10)) == 10
        more = await cost(session, lambda s: deal(s, 10))
        await session.connection.execute("delete from asyncjobs.live_jobs where id > 0 and state = 0")
        await store(session, *[new_job() for _ in range(100)])
        beside = [await cost(session, look_around), await cost(session, lambda s: claim(s, room=100))]
    assert [sum(each.result.values()) for each in (dealt, again, more)] == [10, 0, 10]
    assert dealt.blocks < 1200
    assert again.blocks < 400
    assert more.blocks < 1200
    for before, after in zip(alone, beside, strict=True):
        assert after.blocks <= before.blocks * 1.1 + 100
