"""What `assert_enqueued` finds, and what it says when it finds nothing."""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from asyncjobs import InvalidInput, InvalidOption, Jobs, JobState, WhichJobs, current_job
from asyncjobs.testing import (
    all_enqueued,
    all_enqueued_sync,
    assert_enqueued,
    assert_enqueued_sync,
    refute_enqueued,
    refute_enqueued_sync,
)
from asyncjobs.testing.wanted import differences
from tests.connections import sqlalchemy_url
from tests.testing_helpers.kinds import Address, Charge, Ship, Size, first, second

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
KEY = UUID(int=7)


async def test_a_job_is_found_by_whatever_names_it(jobs: Jobs) -> None:
    """Its class, an object, a method of either, a function, a prepared call, or any ending of its kind."""
    ship = Ship(1, Address("Bern"))
    await ship.later("call")
    await ship.notify.later("anna")
    await first.later(3)
    called: list[Any] = [
        Ship,
        ship,
        ship.call,
        Ship.call,
        "Ship",
        "Ship.call",
        "th.Ship",
        ship.prepare("call"),
    ]
    notified: list[Any] = [ship.notify, Ship.notify, ship.notify.prepare("anna"), "Ship.notify"]
    firsts: list[Any] = [first, first.prepare(3), "first", "th.first"]
    for what in called:
        assert (await assert_enqueued(what))[0].method == "call"
    for what in notified:
        [job] = await assert_enqueued(what)
        assert job.method == "notify"
    for what in firsts:
        [job] = await assert_enqueued(what)
        assert job.args == {"number": 3}


async def test_an_object_or_a_prepared_call_brings_its_inputs(jobs: Jobs) -> None:
    """Another order is another job."""
    await Ship(1, Address("Bern")).later("call")
    await first.later(3)
    await assert_enqueued(Ship(1, Address("Bern")))
    for other in (
        Ship(2, Address("Bern")),
        Ship(1, Address("Basel")).call,
        first.prepare(4),
        Ship.label,
        second,
    ):
        await refute_enqueued(other)
        with pytest.raises(AssertionError):
            await assert_enqueued(other)


async def test_inputs_are_matched_as_subsets(jobs: Jobs) -> None:
    """The keys named, of nested dictionaries too; an object of a class by its fields, a function is asked."""
    await Ship(1, Address("Bern", "Gasse 1"), Size.LARGE, NOON, KEY).later("call")
    good: list[dict[str, Any]] = [
        {"order": 1},
        {"to": {"city": "Bern"}},
        {"to": {"city": lambda city: city.startswith("B")}, "order": lambda order: order > 0},
        {"to": Address("Bern", "Gasse 1")},
        {"size": Size.LARGE, "by": NOON, "key": KEY},
        {"size": "l"},
        {},
    ]
    for args in good:
        await assert_enqueued(Ship, args=args)
    bad: list[dict[str, Any]] = [
        {"order": 2},
        {"order": True},
        {"to": {"city": "Bern", "street": None}},
        {"to": Address("Bern")},
        {"size": Size.SMALL, "by": NOON},
        {"to": {"town": "Bern"}},
        {"order": lambda order: order > 1},
        {"key": UUID(int=8)},
    ]
    for args in bad:
        await refute_enqueued(Ship, args=args)


async def test_arguments_of_a_method_are_inputs_beside_those_of_the_object(jobs: Jobs) -> None:
    """Both are named by their names."""
    await Ship(1, Address("Bern")).notify.later("anna")
    await assert_enqueued(Ship.notify, args={"order": 1, "who": "anna"})
    await refute_enqueued(Ship.notify, args={"who": "otto"})


async def test_options_are_matched(jobs: Jobs) -> None:
    """Queue, priority, tags and meta, and how long it waits."""
    day = timedelta(hours=24)
    await Charge(1).later(
        "call", delay=day, priority=-3, tags=["a", "b"], meta={"by": {"user": 1, "ip": "::1"}}
    )
    await Charge(2).later("call", at=NOON)
    good: list[dict[str, Any]] = [
        {"queue": "billing"},
        {"priority": -3},
        {"tags": ["b"]},
        {"meta": {"by": {"user": 1}}},
        {"delay": day},
        {"delay": 3600 * 24 + 30, "within": 60},
        {"at": NOON},
        {"at": NOON + timedelta(minutes=1), "within": timedelta(minutes=2)},
        {"states": ["scheduled"]},
        {"count": 2},
    ]
    for described in good:
        await assert_enqueued(Charge, **described)
    bad: list[dict[str, Any]] = [
        {"queue": "default"},
        {"priority": 0, "delay": day},
        {"tags": ["c"]},
        {"meta": {"by": {"user": 2}}},
        {"delay": 3600},
        {"at": NOON + timedelta(minutes=1)},
        {"states": [JobState.AVAILABLE]},
        {"count": 1},
        {"count": 3},
    ]
    for described in bad:
        with pytest.raises(AssertionError):
            await assert_enqueued(Charge, **described)
    assert [job.args["invoice"] for job in await all_enqueued(Charge)] == [1, 2]
    assert await all_enqueued(Charge, queue="other") == []
    await assert_enqueued(Ship, count=0)


async def test_it_sees_what_an_open_transaction_enqueued_and_nobody_else_does(alone: str) -> None:
    """On a connection, without a Jobs that is open; after the rollback it is gone."""
    jobs = Jobs(alone)
    mine, other = await asyncpg.connect(alone), await asyncpg.connect(alone)
    try:
        transaction = mine.transaction()
        await transaction.start()
        async with jobs:
            await first.later(1)
            await second.set(on=mine).later(2)
            await assert_enqueued(second, on=mine)
            await refute_enqueued(second)
            async with jobs.on(mine):
                await assert_enqueued(second)
        await assert_enqueued(first, on=other)
        await refute_enqueued(second, on=other)
        await transaction.rollback()
        await refute_enqueued(second, on=mine)
        with pytest.raises(WhichJobs):
            await refute_enqueued(second)
    finally:
        await mine.close()
        await other.close()


async def test_a_failure_says_what_is_enqueued_and_how_it_differs(jobs: Jobs) -> None:
    """The nearest first, each with the fields that differ."""
    await first.later(1)
    await Ship(1, Address("Bern")).later("call", priority=4)
    await Ship(2, Address("Basel")).later("call")
    with pytest.raises(AssertionError) as raised:
        await assert_enqueued(Ship, args={"order": 1, "to": {"city": "Basel"}}, priority=4)
    said = str(raised.value)
    assert said.splitlines()[:2] == [
        "no job like this is enqueued:",
        "    Ship  args={'order': 1, 'to': {'city': 'Basel'}}, priority=4",
    ]
    assert "3 jobs are enqueued:" in said
    places = [said.index(each) for each in ("args.to.city is 'Bern', not 'Basel'", "args.order is 2, not 1")]
    assert places == sorted(places)
    assert "! priority is 0, not 4" in said
    assert "! it is th.first" in said
    assert said.index("Ship.call") < said.index("first")
    with pytest.raises(AssertionError, match="1 job is enqueued, which should not be:\n.*first"):
        await refute_enqueued(first)
    with pytest.raises(AssertionError, match="2 jobs are enqueued like this, not 1:"):
        await assert_enqueued(Ship, count=1)


async def test_a_failure_with_nothing_there_says_so(jobs: Jobs) -> None:
    """And what has ended of that kind is named."""
    with pytest.raises(AssertionError, match="nothing is enqueued$"):
        await assert_enqueued(Ship)
    await second.set(run="now").later(1)
    with pytest.raises(AssertionError, match="completed, not scheduled or"):
        await assert_enqueued(second)
    await assert_enqueued(second, states=["completed"])


async def test_what_makes_no_sense_is_refused(jobs: Jobs) -> None:
    """A word that is none, what is no job, a value no job could have."""
    with pytest.raises(InvalidOption, match="did you mean 'queue'"):
        await assert_enqueued(Ship, quue="x")  # type: ignore[call-arg]
    with pytest.raises(InvalidOption, match="is no job; pass a job class"):
        await assert_enqueued(current_job)
    with pytest.raises(InvalidOption, match=r"write tags=\['a'\]"):
        await assert_enqueued(Ship, tags="a")
    await Ship(1, Address("Bern")).later("call")
    with pytest.raises(InvalidInput):
        await assert_enqueued(Ship, args={"order": object()})


@pytest.mark.parametrize("kind", ["sqlalchemy", "psycopg", "psycopg2"])
def test_sync_tests_ask_on_their_own_connection(sync_dsn: str, kind: str) -> None:
    """In its open transaction, without an event loop."""
    jobs = Jobs(sync_dsn)
    with ExitStack() as stack:
        if kind == "sqlalchemy":
            engine = create_engine(sqlalchemy_url(sync_dsn, "psycopg"), poolclass=NullPool)
            on: Any = stack.enter_context(Session(engine))
        else:
            driver = psycopg if kind == "psycopg" else psycopg2
            on = stack.enter_context(closing(driver.connect(sync_dsn)))
        first.set(on=on, jobs=jobs).later_sync(3)
        assert_enqueued_sync(first, on=on, args={"number": 3}, queue="default", count=1)
        refute_enqueued_sync(second, on=on, jobs=jobs)
        assert [job.args for job in all_enqueued_sync(on=on)] == [{"number": 3}]
        with pytest.raises(AssertionError, match=r"args\.number is 3, not 4"):
            assert_enqueued_sync(first, on=on, args={"number": 4})
        on.rollback()
        refute_enqueued_sync(first, on=on)


@pytest.fixture
def sync_dsn(dsn: str) -> str:
    return dsn


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(PLAIN)
def test_everything_is_a_subset_of_itself(value: Any) -> None:
    """Whatever JSON may hold."""
    assert list(differences(value, value, "it")) == []


@settings(max_examples=50)
@given(st.dictionaries(st.text("ab", max_size=2), PLAIN, max_size=4), st.data())
def test_a_dictionary_without_some_keys_is_a_subset_and_with_more_is_not(
    value: dict[str, Any], data: st.DataObject
) -> None:
    """At any depth, for the same holds there."""
    kept = data.draw(st.sets(st.sampled_from(sorted(value)))) if value else set()
    assert list(differences({key: value[key] for key in kept}, value, "it")) == []
    assert list(differences({**value, "other": 1}, value, "it")) == ["it has no 'other'"]


@settings(max_examples=50)
@given(PLAIN, PLAIN)
def test_what_is_no_dictionary_is_equal_or_different(one: Any, other: Any) -> None:
    """Nothing but dictionaries is matched in part; True is not 1."""
    if not isinstance(one, dict | list):
        same = type(one) is type(other) and one == other
        assert (list(differences(one, other, "it")) == []) == same
