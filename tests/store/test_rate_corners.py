"""Rates by key where two things happen at once: what an adversary of migration 0008 thought of."""

from __future__ import annotations

from typing import Any

import pytest

from asyncjobs._store.locks import acquire_locks
from asyncjobs._store.rates import let_in, promote_rates
from asyncjobs._store.unique import insert_unique
from asyncjobs._store.views import pause_queue, resume_queue
from tests.store.jobs import RUNNER, claim, new_job, session_of, store
from tests.store.test_rates import SLIDING, ask, end, in_line, rated, time_passes


async def test_of_two_that_begin_together_the_second_waits_for_its_own_token(dsn: str) -> None:
    """The one before it has paid with a token that was there, and not with the one that comes in a moment."""
    async with session_of(dsn) as session:
        await store(session, rated(window=SLIDING, per=60.0))
        await ask(session)
        await time_passes(session, 30.0)
        await store(session, rated(window=SLIDING, per=60.0))
        await ask(session)
        await store(session, *[rated(window=SLIDING, per=60.0) for _ in range(2)])
        jobs = await claim(session)
        await session.connection.execute(
            "update asyncjobs.rate_payments set paid_at = clock_timestamp() - interval '59.992 s'"
            " where paid_at = (select min(paid_at) from asyncjobs.rate_payments)"
        )
        came = await let_in(session, RUNNER, jobs)
        assert all(wait < 1 for wait in came.waits.values())
        furthest = "select max(paid_at) < clock_timestamp() + interval '1 s' from asyncjobs.rate_payments"
        assert await session.connection.fetchval(furthest)


async def test_one_to_which_a_lock_was_handed_does_not_keep_it_in_line(dsn: str) -> None:
    """It does not go there unseen, with those behind the first: refused itself, it lets go, and who waits for the lock has its turn."""
    async with session_of(dsn) as session:
        await store(session, *[rated() for _ in range(3)])
        await ask(session)
        locked: Any = {"lock_key": "l", "lock_slots": 1}
        (holder,) = await store(session, new_job(**locked))
        await acquire_locks(session, RUNNER, await claim(session))
        (heir,) = await store(session, rated(**locked))
        (waits,) = await store(session, new_job(**locked))
        await acquire_locks(session, RUNNER, await claim(session))
        (first,) = await store(session, rated(priority=-1))
        await end(session, frozenset([holder]))
        assert await session.connection.fetchval("select job from asyncjobs.locks") == heir
        assert (await let_in(session, RUNNER, await claim(session, room=1))).blocked == {first}
        assert set(await in_line(session)) == {first}
        assert (await ask(session)).blocked == {heir}
        assert await session.connection.fetchval("select job from asyncjobs.locks") == waits


@pytest.mark.xfail(
    strict=True, reason="within a minute: who puts it off would lock the rate in a transaction of the user"
)
async def test_put_off_it_holds_up_nobody(dsn: str) -> None:
    """Who is behind it may be lighter: the line is looked at again at once."""
    async with session_of(dsn) as session:
        await store(session, rated(weight=2))
        await ask(session)
        unique: Any = {"unique_key": "u", "on_conflict": ("reschedule",)}
        ((heavy, _),) = await insert_unique(
            session, [rated(weight=3, **unique)], wake=True, commits_itself=True
        )
        assert (await ask(session)).blocked == {heavy}
        (light,) = await store(session, rated())
        assert (await ask(session)).blocked == {light}
        await insert_unique(
            session, [rated(weight=3, delay=3600.0, **unique)], wake=True, commits_itself=True
        )
        assert await in_line(session) == [light]
        await promote_rates(session, 10)
        assert await in_line(session) == []


async def test_a_queue_that_goes_on_has_its_turn_though_another_waits(dsn: str) -> None:
    """Within two seconds, as is promised, and not when the heavy one of the other queue is due."""
    async with session_of(dsn) as session:
        await store(session, rated(weight=3))
        await ask(session)
        (paused,) = await store(session, rated(queue="other"))
        await let_in(session, RUNNER, await claim(session, lanes=[("other", "k")]))
        (heavy,) = await store(session, rated(weight=3))
        await ask(session)
        await pause_queue(session, "other")
        await time_passes(session, 210.0)
        await promote_rates(session, 10)
        assert await in_line(session) == [paused, heavy]
        await resume_queue(session, "other")
        await time_passes(session, 2.0)
        await promote_rates(session, 10)
        assert await in_line(session) == [heavy]


async def test_a_suspect_that_was_made_ready_is_not_passed(dsn: str) -> None:
    """It begins when it is alone: until then its tokens are nobody else's."""
    async with session_of(dsn) as session:
        await store(session, rated(capacity=1))
        await ask(session)
        suspect, other = await store(session, rated(capacity=1), rated(capacity=1))
        await ask(session)
        await session.connection.execute("update asyncjobs.live_jobs set crashes = 1 where id = $1", suspect)
        await time_passes(session, 601.0)
        await promote_rates(session, 10)
        assert await in_line(session) == [other]
        await session.connection.execute("update asyncjobs.rates set due_at = now()")
        await promote_rates(session, 10)
        assert await in_line(session) == [other]


async def test_a_queue_nobody_serves_holds_up_no_other_of_the_rate(dsn: str) -> None:
    """Those who are made ready there and do not come come after all others, with all of their lane."""
    async with session_of(dsn) as session:
        await store(session, *[rated() for _ in range(3)])
        await ask(session)
        dead = await store(session, *[rated(queue="dead", priority=-1) for _ in range(50)])
        await let_in(session, RUNNER, await claim(session, lanes=[("dead", "k")]))
        alive = await store(session, *[rated() for _ in range(3)])
        await ask(session)
        assert await in_line(session) == dead + alive
        await time_passes(session, 600.1)
        await promote_rates(session, 10)
        assert await in_line(session) == dead[3:] + alive
        await time_passes(session, 10.5)
        await promote_rates(session, 10)
        assert await in_line(session) == dead[3:]
        assert (await ask(session)).held == set(alive)
        # Somebody serves it again.
        await time_passes(session, 600.1)
        came = await let_in(session, RUNNER, await claim(session, lanes=[("dead", "k")]))
        assert came.held == set(dead[:3])


async def test_a_kind_nobody_knows_holds_up_no_other_of_the_rate(dsn: str) -> None:
    """As after newer code that was taken back."""
    async with session_of(dsn) as session:
        await store(session, *[rated() for _ in range(3)])
        await ask(session)
        new = await store(session, *[rated(kind="k@2", priority=-1) for _ in range(50)])
        await let_in(session, RUNNER, await claim(session, lanes=[("q", "k@2")]))
        old = await store(session, *[rated() for _ in range(3)])
        await ask(session)
        await time_passes(session, 600.1)
        await promote_rates(session, 10)
        await time_passes(session, 10.5)
        await promote_rates(session, 10)
        assert await in_line(session) == new[3:]
        assert (await ask(session)).held == set(old)


@pytest.mark.parametrize("window", [0, 1, 2])
async def test_two_versions_of_code_that_say_different_rates_exceed_neither_by_turns(
    dsn: str, window: int
) -> None:
    """What was used stays used, however often the word changes: the larger rate bounds them all."""
    async with session_of(dsn) as session:
        held = 0
        for _ in range(8):
            await store(session, *[rated(capacity=30, window=window) for _ in range(30)])
            held += len((await ask(session)).held)
            held += len((await ask(session)).held)
            await store(session, rated(capacity=5, window=window, per=100.0))
            held += len((await ask(session)).held)
        assert held <= 30 + 8


async def test_many_payments_of_a_large_window_are_few_rows(dsn: str) -> None:
    """They are summed up at each start: those of a thousandth of the window are one, and expire with the last of them."""
    async with session_of(dsn) as session:
        for _ in range(20):
            await store(session, *[rated(window=SLIDING, capacity=3000, per=86_400.0) for _ in range(2)])
            assert len((await ask(session)).held) == 2
        row = await session.connection.fetchrow(
            "select count(*) as rows, sum(tokens) as tokens, bool_and(paid_at > clock_timestamp() - interval '1 s') as later"
            "  from asyncjobs.rate_payments"
        )
        assert row["rows"] <= 2
        assert (row["tokens"], row["later"]) == (40, True)
        assert await session.connection.fetchval("select tokens_left from asyncjobs.rate_limits") == 2960
