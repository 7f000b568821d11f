"""What happened is told in the publisher's transaction: one job for each subscription that matches, in any application."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import attrs
import psycopg
import pytest

from asyncjobs import (
    Cancel,
    DatabaseUnavailable,
    Dependency,
    Discard,
    Event,
    Finish,
    InvalidDefinition,
    InvalidInput,
    InvalidOption,
    Is,
    JobFailed,
    JobNotPublished,
    Jobs,
    JobState,
    Later,
    Missing,
    Skip,
    Snooze,
    WrongConnection,
    current_event,
    current_job,
    current_locale,
    in_context,
    job,
    publishing,
    subscribe,
)
from asyncjobs._bus import registrar
from asyncjobs._bus.heart import Heart, of_minute
from asyncjobs._model import patterns
from asyncjobs._model.job import Lane
from tests.connections import KINDS, SESSIONS
from tests.kinds import forgotten
from tests.running import running
from tests.subscriptions import only, taken
from tests.waiting import eventually_async

HERE = "test_message_bus"
ALICE = UUID("6f1d8f63-7f0e-4a6e-8a55-0d6a2d8a9f10")

seen: list[Any] = []


class Mailer:
    def __init__(self, name: str) -> None:
        self.name = name


@subscribe("tmb_changed", kind=f"{HERE}:reindex", queue="index", priority=7, max_attempts=3, tags=["search"])
async def reindex(user_id: UUID, note: str = "no note") -> str:
    return f"{user_id} {type(user_id).__name__} {note}"


@subscribe("tmb_ch*d", kind=f"{HERE}:audit")
async def audit(event: Event) -> str:
    return f"{event.name} {event['user_id']}"


@subscribe(
    re.compile(r"^tmb_(changed|deleted)$"), where={"email": Is.PRESENT, "plan": "pro"}, kind=f"{HERE}:bill"
)
def bill(email: str) -> str:
    return f"bill {email}"


@subscribe("tmb_changed", where={}, kind=f"{HERE}:nothing")
async def nothing() -> None: ...


@subscribe("tmb_moved", timeout=9)
@subscribe("tmb_moved", call="forget", name="forgetting", queue="slow")
@attrs.frozen
class Index(Later, kind=f"{HERE}:Index", queue="index", max_attempts=4):
    user_id: int

    async def call(self) -> str:
        return f"index {self.user_id} {current_event().id}"

    async def forget(self) -> str:
        return f"forget {self.user_id}"


@subscribe("tmb_paid", transform=lambda event: {"invoice": event["id"] * 10})
@job(kind=f"{HERE}:book", queue="books")
async def book(invoice: int) -> str:
    event = current_event()
    return f"{invoice} {event.name} {event['id']}"


@subscribe("tmb_paid", transform=lambda event: Receipt(f"no. {event['id']}"), queue="receipts")
@attrs.frozen
class Receipt(Later, kind=f"{HERE}:Receipt"):
    number: str

    async def call(self) -> str:
        return f"receipt {self.number}"


@subscribe("tmb_renamed", unique=("user_id",), queue="once")
async def once(user_id: int, name: str) -> str:
    return f"{user_id} {name}"


@subscribe("tmb_billed", fair="tenant", queue="in turns", kind=f"{HERE}:in_turns")
async def in_turns(tenant: str, number: int) -> str:
    return f"{tenant} {number}"


@subscribe("tmb_asked", kind=f"{HERE}:never")
async def never(missing: int) -> None: ...


@job(kind=f"{HERE}:ask")
async def ask() -> str:
    return current_event().name


MINE = taken()


@pytest.fixture(autouse=True)
def _mine() -> Iterator[None]:
    seen.clear()
    with only(MINE):
        yield


@asynccontextmanager
async def declared(dsn: str, **given: Any) -> AsyncIterator[Jobs]:
    """Jobs whose application has subscribed, and of which none runs."""
    async with Jobs(dsn, **given) as jobs:
        await jobs.declare_subscriptions()
        yield jobs


async def kinds(jobs: Jobs) -> list[str]:
    """The kinds of the jobs there are, shortly, in order of their names."""
    return sorted(each.kind.removeprefix(f"{HERE}:") for each in await jobs.list_jobs())


class ChangedMyMind(Exception):
    pass


@pytest.mark.seed("T13")
@pytest.mark.parametrize("kind", KINDS)
async def test_an_event_becomes_jobs_with_the_publishers_data_or_not_at_all(dsn: str, kind: str) -> None:
    """ "bus: publish in transaction"; "one job per subscription": on every driver, and in savepoints."""
    async with declared(dsn) as jobs, KINDS[kind](dsn) as theirs:
        with suppress(ChangedMyMind):
            async with theirs.begin():
                done = await jobs.publish("tmb_changed", {"user_id": str(ALICE)}, on=theirs.on)
                assert len(done.jobs) == 2
                raise ChangedMyMind
        assert await jobs.list_jobs() == []
        async with theirs.begin():
            await jobs.publish("tmb_moved", {"user_id": 1}, on=theirs.on)
            with suppress(ChangedMyMind):
                async with theirs.nest():
                    await jobs.publish("tmb_changed", {"user_id": str(ALICE)}, on=theirs.on)
                    raise ChangedMyMind
            assert await jobs.list_jobs() == []
        assert await kinds(jobs) == ["Index", "Index"]


async def test_the_ambient_session_is_joined(dsn: str) -> None:
    """`jobs.on(session)` holds for events as for jobs; without any, the event is committed by itself."""
    async with declared(dsn) as jobs, KINDS["session"](dsn) as theirs:
        with suppress(ChangedMyMind):
            async with theirs.begin(), jobs.on(theirs.on):
                await jobs.publish("tmb_moved", {"user_id": 1})
                raise ChangedMyMind
        assert await jobs.list_jobs() == []
        done = await jobs.publish("tmb_moved", {"user_id": 1})
        assert sorted(done.jobs) == sorted(each.id for each in await jobs.list_jobs())


async def test_where_jobs_join_transactions_only_events_do(dsn: str) -> None:
    """`transactional=True` holds for them, too."""
    async with declared(dsn, transactional=True) as jobs, KINDS["session"](dsn) as theirs:
        with pytest.raises(WrongConnection, match="transactional=True"):
            await jobs.publish("tmb_moved", {"user_id": 1})
        async with theirs.begin():
            await jobs.publish("tmb_moved", {"user_id": 1}, on=theirs.on)
        assert len(await jobs.list_jobs()) == 2


async def test_a_runner_elsewhere_is_woken_by_the_commit(dsn: str) -> None:
    """It polls for nothing here."""
    async with running(dsn) as runner, Jobs(dsn) as jobs, KINDS["asyncpg"](dsn) as theirs:
        async with theirs.begin():
            done = await jobs.publish("tmb_moved", {"user_id": 1}, on=theirs.on)
        assert {await runner.handle(each).result(20) for each in done.jobs} == {
            f"index 1 {done.id}",
            "forget 1",
        }


@pytest.mark.parametrize("delay", [None, 60])
async def test_sync_code_publishes_too(dsn: str, delay: float | None) -> None:
    """In the transaction of its sync connection, or from a thread."""
    expected = 2 if delay is None else 1
    async with declared(dsn) as jobs:

        def on_its_own() -> None:
            with psycopg.connect(dsn) as connection:
                with suppress(ChangedMyMind), connection.transaction():
                    done = jobs.publish_sync("tmb_moved", {"user_id": 1}, on=connection, delay=delay)
                    assert len(done.jobs) == expected
                    raise ChangedMyMind
                jobs.publish_sync("tmb_moved", {"user_id": 2}, on=connection, delay=delay)
            assert len(jobs.publish_sync("tmb_moved", {"user_id": 3}, delay=delay).jobs) == expected

        await asyncio.to_thread(on_its_own)
        assert len(await jobs.list_jobs()) == 2 * expected


@pytest.mark.parametrize("kind", SESSIONS)
async def test_the_runner_of_this_process_is_woken_after_the_commit(dsn: str, kind: str) -> None:
    """Once, with the lanes the jobs went to."""
    heard: list[Lane] = []

    class Ears:
        def is_hungry(self, lane: Lane) -> bool:  # noqa: ARG002
            return True

        def wake(self, lanes: Any) -> None:
            heard.extend(lanes)

    async with declared(dsn) as jobs, KINDS[kind](dsn) as theirs:
        jobs.runner = Ears()
        async with theirs.begin():
            await jobs.publish("tmb_moved", {"user_id": 1}, on=theirs.on)
            assert heard == []
        assert sorted(heard) == [Lane("index", f"{HERE}:Index"), Lane("slow", f"{HERE}:Index")]


@pytest.mark.seed("T13")
async def test_subscribers_run_with_attributes_or_the_event(dsn: str) -> None:
    """T13 bus: … names, globs/regex, attribute matchers: attributes are read as the function declares them, and what it does not
    declare is left out.
    """
    async with running(dsn) as jobs:
        done = await jobs.publish(
            "tmb_changed", {"user_id": str(ALICE), "plan": "pro", "email": "a@b.ch", "more": [1]}
        )
        said = {await jobs.handle(each).result(20) for each in done.jobs}
        assert said == {f"{ALICE} UUID no note", f"tmb_changed {ALICE}", "bill a@b.ch"}
        done = await jobs.publish("tmb_deleted", {"email": " ", "plan": "pro"})
        assert done.jobs == ()
        moved = await jobs.publish("tmb_moved", {"user_id": 3})
        said = {await jobs.handle(each).result(20) for each in moved.jobs}
        assert said == {f"index 3 {moved.id}", "forget 3"}


async def test_subscribers_have_their_dependencies(dsn: str) -> None:
    """Also those an event is passed on to, inline too."""
    with forgotten():

        @subscribe("tmb_sent", kind=f"{HERE}:send")
        async def send(event: Event, mailer: Dependency[Mailer], to: str = "") -> str:
            seen.append(to)
            return f"{event.name} to {to} by {mailer.name}"

        @subscribe("tmb_sent", call="send", unique=True)
        @attrs.frozen
        class Letter(Later, kind=f"{HERE}:Letter"):
            to: str
            mailer: Dependency[Mailer]

            async def send(self) -> str:
                seen.append(self.to)
                return f"letter to {self.to} by {self.mailer.name}"

        async with running(dsn, provide={Mailer: lambda: Mailer("otto")}) as jobs:
            done = await jobs.publish("tmb_sent", {"to": "ada"})
            said = {await jobs.handle(each).result(20) for each in done.jobs}
            (passed_on,) = (each for each in said if isinstance(each, int))
            assert said - {passed_on} == {"tmb_sent to ada by otto"}
            assert await jobs.handle(passed_on).result(20) == "letter to ada by otto"
            with publishing("inline"):
                await jobs.publish("tmb_sent", {"to": "bea"})
        assert sorted(seen) == ["ada", "ada", "bea", "bea"]


@pytest.mark.seed("T13")
async def test_words_for_attributes(dsn: str) -> None:
    """ "attribute matchers": key, value, nil, empty, blank and present, as queue-bus has them."""
    fits = {
        Is.KEY: {"null", '""', '" "', "[]", "0", "false", '"x"'},
        Is.VALUE: {'""', '" "', "[]", "0", "false", '"x"'},
        Is.NIL: {"absent", "null"},
        Is.EMPTY: {'""', "[]"},
        Is.BLANK: {"absent", "null", '""', '" "', "[]"},
        Is.PRESENT: {"0", "false", '"x"'},
    }
    with only({}), forgotten():
        for word in fits:

            @subscribe("tmb_words", where={"a": word}, kind=f"{HERE}:{word.name}", name=word.name)
            async def heard() -> None: ...

        async with declared(dsn) as jobs:
            for value in ("absent", "null", '""', '" "', "[]", "0", "false", '"x"'):
                attributes = {} if value == "absent" else {"a": json.loads(value)}
                done = await jobs.publish("tmb_words", attributes)
                got = {(await jobs.handle(each).job()).kind.removeprefix(f"{HERE}:") for each in done.jobs}
                assert got == {word.name for word, values in fits.items() if value in values}, value


@pytest.mark.seed("T13")
async def test_each_subscription_has_its_own_queue_priority_and_retries(dsn: str) -> None:
    """ "per-subscription queue/priority": as said with it, else as its job says."""
    async with declared(dsn) as jobs:
        await jobs.publish("tmb_changed", {"user_id": str(ALICE)})
        await jobs.publish("tmb_moved", {"user_id": 3})
        found = {
            (each.kind.removeprefix(f"{HERE}:"), each.method): (
                each.queue,
                each.priority,
                each.max_attempts,
                each.tags,
            )
            for each in await jobs.list_jobs()
        }
    assert found == {
        ("reindex", None): ("index", 7, 3, ("search",)),
        ("audit", None): ("default", 0, 10, ()),
        ("Index", "call"): ("index", 0, 4, ()),
        ("Index", "forget"): ("slow", 0, 4, ()),
    }
    db = await asyncpg.connect(dsn)
    assert (
        await db.fetchval(
            "select options->>'timeout' from asyncjobs.live_jobs where queue = 'index' and method = 'call'"
        )
        == "9.0"
    )
    await db.close()


@pytest.mark.seed("T13")
async def test_what_is_known_of_an_event(dsn: str) -> None:
    """ "metadata fields": id, name, time, host, application and context; what travels with jobs travels with events."""
    async with declared(dsn, application="shop") as jobs:
        before = datetime.now(UTC)
        with in_context("import"):
            token = current_locale.set("de_CH")
            done = await jobs.publish("tmb_changed", {"user_id": 3})
            current_locale.reset(token)
        first, second = await jobs.list_jobs()
        assert first.meta is not None
        assert second.meta is not None
        known = first.meta["event"]
        assert known["id"] == second.meta["event"]["id"] == done.id
        assert (known["name"], known["host"], known["application"], known["context"]) == (
            "tmb_changed",
            socket.gethostname(),
            "shop",
            "import",
        )
        assert abs(datetime.fromisoformat(known["published_at"]) - before) < timedelta(minutes=5)
        assert first.meta["carried"]["locale"] == "de_CH"
        assert first.args == {"user_id": 3}


@pytest.mark.seed("T13")
async def test_an_event_of_later_is_for_those_who_subscribe_until_then(dsn: str) -> None:
    """T13 "publish_at": due with delay= or at=, published once, in the transaction that completes the job which does it."""
    async with running(dsn) as jobs:
        await jobs.declare_subscriptions(only=True)
        planned = await jobs.publish("tmb_moved", {"user_id": 5}, delay=3600)
        at = await jobs.publish("tmb_moved", {"user_id": 6}, at=datetime(2100, 1, 1, tzinfo=UTC))
        assert [each.state for each in await jobs.list_jobs()] == [JobState.SCHEDULED] * 2
        with only({name: each for name, each in MINE.items() if name != "forgetting"}):
            await jobs.declare_subscriptions(only=True)
        assert await jobs.retry(planned.jobs[0])
        assert await jobs.retry(at.jobs[0])
        (job_id,) = await jobs.handle(planned.jobs[0]).result(20)
        assert await jobs.handle(job_id).result(20) == f"index 5 {planned.id}"
        (job_id,) = await jobs.handle(at.jobs[0]).result(20)
        assert await jobs.handle(job_id).result(20) == f"index 6 {at.id}"


async def test_passing_on_and_completing_are_one_transaction(dsn: str) -> None:
    """Of the job that publishes what is due, and of the one that passes an event on: neither is ever done twice, or half."""
    with forgotten():

        @subscribe("tmb_stays", transform=lambda event: {"number": event["id"]})
        @subscribe("tmb_stays", name="directly")
        @job(
            kind=f"{HERE}:stays", placement="standalone"
        )  # and nobody does here: what is stored stays as it was stored
        async def stays(number: int = 0) -> None: ...

        db = await asyncpg.connect(dsn)
        async with running(dsn) as jobs:
            due = await jobs.publish("tmb_stays", {"id": 4}, delay=0.01)
            direct, relay = await jobs.handle(due.jobs[0]).result(20)
            if (await jobs.handle(direct).job()).kind != stays.kind:
                direct, relay = relay, direct
            passed_on = await jobs.handle(relay).result(20)
        rows = await db.fetch(
            "select id, xmin::text from asyncjobs.finished_jobs union all select id, xmin::text from asyncjobs.live_jobs"
        )
        written = {row[0]: row[1] for row in rows}
        assert written[due.jobs[0]] == written[direct]
        assert written[relay] == written[passed_on]
        await db.close()


async def test_an_event_of_later_is_rolled_back_too(dsn: str) -> None:
    """It is stored with the publisher's data, or not at all."""
    async with declared(dsn) as jobs, KINDS["session"](dsn) as theirs:
        with suppress(ChangedMyMind):
            async with theirs.begin():
                await jobs.publish("tmb_moved", {"user_id": 5}, delay=3600, on=theirs.on)
                raise ChangedMyMind
        assert await jobs.list_jobs() == []


@pytest.mark.seed("T13")
async def test_a_transform_makes_the_inputs(dsn: str) -> None:
    """ "`transform`": arguments, or the object, out of the event; one job for it, however often it is passed on."""
    async with running(dsn) as jobs:
        done = await jobs.publish("tmb_paid", {"id": 4})
        passed_on = [await jobs.handle(each).result(20) for each in done.jobs]
        said = {await jobs.handle(each).result(20) for each in passed_on}
        assert said == {"40 tmb_paid 4", "receipt no. 4"}
        assert {each.queue for each in await jobs.list_jobs() if each.id in passed_on} == {
            "books",
            "receipts",
        }


async def test_a_transform_that_makes_nothing_is_said(dsn: str) -> None:
    """The attributes as they are were not meant: where there are defaults, the job would run on the wrong inputs."""

    @subscribe("tmb_transformed", transform=lambda event: None, max_attempts=1)
    @attrs.frozen
    class MadeOfNothing(Later, kind=f"{HERE}:MadeOfNothing"):
        n: int = 1

        async def call(self) -> None:
            seen.append(self.n)

    @subscribe("tmb_transformed", transform=lambda event: None, max_attempts=1)
    @job(kind=f"{HERE}:made_of_nothing")
    async def made_of_nothing(n: int = 1) -> None:
        seen.append(n)

    async with running(dsn) as jobs:
        done = await jobs.publish("tmb_transformed", {"n": 2})
        assert len(done.jobs) == 2
        for each in done.jobs:
            with pytest.raises(JobFailed, match="transform= gave NoneType"):
                await jobs.handle(each).result(20)
    assert seen == []


@pytest.mark.seed("T13")
async def test_a_subscriber_that_is_unique_in_the_queue_is(dsn: str) -> None:
    """Its key is computed by its own code, where the event is passed on."""
    async with declared(dsn) as jobs:
        await jobs.pause("once")
        for name in ("a", "b", "c"):
            await jobs.publish("tmb_renamed", {"user_id": 1, "name": name})
        await jobs.publish("tmb_renamed", {"user_id": 2, "name": "z"})
        await jobs.resume("once")
        relays = [each.id for each in await jobs.list_jobs()]
    with only({}):
        async with running(dsn, slots=1) as jobs:
            found = {await jobs.handle(each).result(20) for each in relays}
            assert 2 <= len(found) <= 4  # the first may have been done before the next is passed on
            said = [await jobs.handle(each).result(20) for each in found]
            assert "2 z" in said


async def test_a_subscriber_takes_fair_turns(dsn: str) -> None:
    """Its key is computed by its own code, too: one for each tenant, by which its jobs stand in line."""
    async with declared(dsn) as jobs:
        for tenant, number in (("a", 1), ("a", 2), ("b", 3)):
            await jobs.publish("tmb_billed", {"tenant": tenant, "number": number})
        relays = [each.id for each in await jobs.list_jobs()]
    with only({}):
        async with running(dsn) as jobs, jobs.connection() as connection:
            found = [await jobs.handle(each).result(20) for each in relays]
            said = [await jobs.handle(each).result(20) for each in found]
            assert sorted(said) == ["a 1", "a 2", "b 3"]
            rows = await connection.fetch(
                "select args ->> 'tenant', options ->> 'fair' from asyncjobs.finished_jobs where kind = $1",
                f"{HERE}:in_turns",
            )
            assert (
                await connection.fetchval("select count(*) from asyncjobs.turns where queue = 'in turns'")
                == 1
            )
    keys = {(tenant, key) for tenant, key in rows}
    assert len(keys) == 2
    assert len({key for _, key in keys} - {None}) == 2


@pytest.mark.seed("T13")
async def test_a_subscriber_may_live_in_another_application(dsn: str) -> None:
    """The publisher knows nothing of it; what is published while it is down waits for it."""
    program = [sys.executable, "-m", "tests.flows.other_application", dsn]
    async with Jobs(dsn, application="shop") as jobs:
        assert (await jobs.publish("tmb_signed_up", {"name": "Ada", "country": "ch"})).jobs == ()
        ids: list[int] = []
        for name in ("Ada", "Bea"):
            other = await asyncio.create_subprocess_exec(
                *program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert other.stdin is not None
            assert other.stdout is not None
            if not ids:
                assert await other.stdout.readline() == b"running\n"
                ids += (await jobs.publish("tmb_signed_up", {"name": name, "country": "ch"})).jobs
                assert (await jobs.publish("tmb_signed_up", {"name": name, "country": "de"})).jobs == ()
            assert await jobs.handle(ids[-1]).result(20) == f"Grüezi {name}, says shop"
            other.stdin.close()
            assert await other.wait() == 0
            ids += (await jobs.publish("tmb_signed_up", {"name": "Bea", "country": "ch"})).jobs  # nobody runs
        (waits,) = [each for each in await jobs.list_jobs() if each.state is JobState.AVAILABLE]
        assert (waits.queue, waits.priority) == ("mails", 3)


# Added and removed.


async def test_what_is_published_after_a_subscription_reaches_it(dsn: str) -> None:
    """ "subscriber add/remove without losing in-flight events": a runner has subscribed as soon as it runs."""
    async with Jobs(dsn) as publisher:
        assert (await publisher.publish("tmb_moved", {"user_id": 1})).jobs == ()
        async with running(dsn, wait=False, application="a"):
            assert len((await publisher.publish("tmb_moved", {"user_id": 1})).jobs) == 2
        assert len((await publisher.publish("tmb_moved", {"user_id": 1})).jobs) == 2


@pytest.mark.seed("T13")
async def test_nothing_is_lost_while_subscriptions_come_and_go(dsn: str) -> None:
    """ "subscriber add/remove without losing in-flight events": whatever others do, the one that stays gets everything."""
    kept = {name: each for name, each in MINE.items() if name == "forgetting"}
    async with Jobs(dsn, application="a") as jobs, Jobs(dsn, application="a") as other:
        with only(kept):
            await jobs.declare_subscriptions(only=True)
        stop = asyncio.Event()

        async def come_and_go() -> None:
            while not stop.is_set():
                with only(MINE):
                    await other.declare_subscriptions()
                with only(kept):
                    await other.declare_subscriptions(only=True)

        moving = asyncio.create_task(come_and_go())
        for number in range(100):
            await jobs.publish("tmb_moved", {"user_id": number})
        stop.set()
        await moving
        got = sorted(
            each.args["user_id"] for each in await jobs.list_jobs(limit=500) if each.method == "forget"
        )
        assert got == list(range(100))


async def test_a_job_outlives_its_subscription(dsn: str) -> None:
    """It was stored, and runs where its kind is known."""
    async with declared(dsn) as jobs:
        done = await jobs.publish("tmb_moved", {"user_id": 9})
        with only({}):
            await jobs.declare_subscriptions(only=True)
            assert await jobs.list_subscriptions() == []
            assert (await jobs.publish("tmb_moved", {"user_id": 9})).jobs == ()
    with only({}):
        async with running(dsn) as jobs:
            said = {await jobs.handle(each).result(20) for each in done.jobs}
            assert said == {f"index 9 {done.id}", "forget 9"}


async def test_an_old_version_beside_a_new_one_keeps_its_own_and_changes_nothing(dsn: str) -> None:
    """Of the same name, the one started last decides; what only the old one has stays as long as it runs, and an hour."""
    newer = {"forgetting": attrs.evolve(MINE["forgetting"], queue="newer")}
    db = await asyncpg.connect(dsn)

    async def an_hour_passes() -> None:
        await db.execute("update asyncjobs.subscriptions set declared_at = now() - interval '61 min'")

    async with Jobs(dsn, application="a") as old, Jobs(dsn, application="a") as new:

        async def queues() -> dict[str, str]:
            return {each.name: each.queue for each in await old.list_subscriptions()}

        await old.declare_subscriptions()
        with only(newer):
            await new.declare_subscriptions()
        await an_hour_passes()
        await old._registrar.round()  # it says that it goes on
        assert (await queues())["forgetting"] == "newer"
        assert (await queues()).keys() == MINE.keys()

        await an_hour_passes()
        with only(newer):
            await new._registrar.round()
            assert (await queues()).keys() == MINE.keys()  # it has not run for an hour itself
            new._registrar._since = -registrar.FORGOTTEN_AFTER  # now it has
        await an_hour_passes()
        await old._registrar.round()
        with only(newer):
            await new._registrar.round()
            assert (await queues()).keys() == MINE.keys()  # the old one said so
            await an_hour_passes()
            await new._registrar.round()
            assert await queues() == {"forgetting": "newer"}
    await db.close()


async def test_a_runner_goes_on_saying_what_it_subscribes_to(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever took its subscriptions away, they are back soon."""
    monkeypatch.setattr(registrar, "EVERY", 0.05)
    async with running(dsn) as jobs:
        db = await asyncpg.connect(dsn)
        await db.execute("delete from asyncjobs.subscriptions")

        async def back() -> bool:
            return len(await jobs.list_subscriptions()) == len(MINE)

        await eventually_async(back)
        await db.close()


async def test_a_runner_that_starts_without_postgres_subscribes_when_it_is_back(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to start it again."""
    real, away = registrar.Registrar.declare, [True]

    async def declare(self: registrar.Registrar, *, only: bool = False) -> None:
        if away.pop() if away else False:
            raise DatabaseUnavailable("it is away")
        await real(self, only=only)

    monkeypatch.setattr(registrar.Registrar, "declare", declare)
    async with running(dsn) as jobs:

        async def subscribed() -> bool:
            return len(await jobs.list_subscriptions()) == len(MINE)

        await eventually_async(subscribed)


async def test_applications_leave_each_others_subscriptions_alone(dsn: str) -> None:
    """Two of the same name are two, and each gets its job."""
    async with declared(dsn, application="a") as jobs, declared(dsn, application="b"):
        assert len((await jobs.publish("tmb_moved", {"user_id": 1})).jobs) == 4
        with only({}):
            await jobs.declare_subscriptions(only=True)
        assert {each.application for each in await jobs.list_subscriptions()} == {"b"}


async def test_processes_without_subscribers_take_no_part(dsn: str) -> None:
    """One that only serves pages does not take from one that has subscribed."""
    async with declared(dsn) as jobs:
        with only({}):
            async with running(dsn):
                assert len(await jobs.list_subscriptions()) == len(MINE)


# Heartbeats.


@pytest.mark.seed("T13")
async def test_every_minute_is_an_event_however_many_processes_there_are(dsn: str) -> None:
    """ "heartbeat": each minute once, with its parts; what was missed in the time that is made up for, and nothing older."""

    @subscribe("heartbeat_minutes", kind=f"{HERE}:minute")
    async def of_this_minute(epoch_minutes: int) -> None: ...

    db = await asyncpg.connect(dsn)
    await db.execute("update asyncjobs.heartbeat set minute = date_trunc('minute', now()) - interval '1 day'")
    before = int(datetime.now(UTC).timestamp()) // 60
    async with AsyncExitStack() as stack:
        first, *_ = [
            await stack.enter_async_context(running(dsn, heartbeat=timedelta(minutes=5), wait=False, slots=1))
            for _ in range(4)
        ]

        async def made_up() -> bool:
            return bool(
                await db.fetchval("select minute >= date_trunc('minute', now()) from asyncjobs.heartbeat")
            )

        await eventually_async(made_up)
        minutes = {each.args["epoch_minutes"]: each.args for each in await first.list_jobs()}
        found = sorted(each.args["epoch_minutes"] for each in await first.list_jobs())
    assert found[:6] == [*range(before - 5, before + 1)]
    assert len(found) == len(set(found)) <= 8  # a minute or two may have passed
    for count, parts in minutes.items():
        time = datetime.fromtimestamp(60 * count, UTC)
        said = (parts["minute"], parts["hour"], parts["day"], parts["month"], parts["year"])
        assert said == (time.minute, time.hour, time.day, time.month, time.year)
    await db.close()


@pytest.mark.parametrize(("window", "expected"), [(0, [0]), (120, [-2, -1, 0])])
async def test_missed_minutes_are_made_up_for_as_said(dsn: str, window: float, expected: list[int]) -> None:
    """None with 0, and never those before the first."""
    got: list[datetime] = []

    async def publish(_: Any, attributes: dict[str, int]) -> None:
        got.append(datetime.fromtimestamp(attributes["epoch_seconds"], UTC))

    async with Jobs(dsn) as jobs:
        heart = Heart(jobs._source, "asyncjobs", window, publish)
        await heart.round()
        assert len(got) <= 2  # a minute may have begun
        got.clear()
        db = await asyncpg.connect(dsn)
        for _ in range(2):  # again, should a minute begin meanwhile
            got.clear()
            now = await db.fetchval(
                "update asyncjobs.heartbeat set minute = date_trunc('minute', now()) - interval '1 h' "
                "returning date_trunc('minute', now())"
            )
            assert 0 < await heart.round() <= 60
            if got[-1] == now:
                break
        assert [(each - now).total_seconds() / 60 for each in got] == expected
        await db.close()


async def test_a_minute_that_could_not_be_published_is_still_due(dsn: str) -> None:
    """Taking it and publishing it are one transaction."""
    got: list[int] = []

    async def publish(_: Any, attributes: dict[str, int]) -> None:
        got.append(attributes["epoch_minutes"])
        if len(got) == 1:
            raise ChangedMyMind

    async with Jobs(dsn) as jobs:
        heart = Heart(jobs._source, "asyncjobs", 3600, publish)
        db = await asyncpg.connect(dsn)
        await db.execute(
            "update asyncjobs.heartbeat set minute = date_trunc('minute', now()) - interval '3 min'"
        )
        await db.close()
        with pytest.raises(ChangedMyMind):
            await heart.round()
        await heart.round()
        assert got[0] == got[1]


def test_what_is_said_of_a_minute() -> None:
    """ "minute/hour/day attributes", as queue-bus has them: in UTC, its weeks begin on Sunday."""
    assert of_minute(datetime(2026, 11, 22, 12, 34, tzinfo=UTC)) == {
        "epoch_seconds": 1795350840,
        "epoch_minutes": 29922514,
        "epoch_hours": 498708,
        "epoch_days": 20779,
        "minute": 34,
        "hour": 12,
        "day": 22,
        "month": 11,
        "year": 2026,
        "yday": 326,
        "wday": 0,
    }


# In tests.


@pytest.mark.seed("T13")
async def test_inline(dsn: str) -> None:
    """ "local modes for tests": subscribers run at once, from the same JSON, and nothing is stored."""
    ran: list[str] = []

    @subscribe("tmb_inline", kind=f"{HERE}:inline")
    async def inline(event: Event, user_id: UUID) -> None:
        ran.append(f"{event.name} {user_id!r}")

    @subscribe("tmb_inline", kind=f"{HERE}:inline_sync")
    def inline_sync(user_id: str) -> None:
        ran.append(user_id)

    @subscribe("tmb_inline", transform=lambda event: {"word": str(event["user_id"])})
    @job(kind=f"{HERE}:inline_transformed")
    async def transformed(word: str) -> None:
        ran.append(f"word {word}")

    async with Jobs(dsn) as jobs:
        with publishing("inline") as events:
            done = await jobs.publish("tmb_inline", {"user_id": str(ALICE)})
            await jobs.publish("tmb_nobody", {"at": "once"}, delay=60)
        assert done.jobs == ()
        assert [(each.name, dict(each.attributes)) for each in events] == [
            ("tmb_inline", {"user_id": str(ALICE)}),
            ("tmb_nobody", {"at": "once"}),
        ]
        assert sorted(ran) == sorted([f"tmb_inline {ALICE!r}", str(ALICE), f"word {ALICE}"])
        assert await jobs.list_jobs() == []


async def test_inline_raises_what_subscribers_raise(dsn: str) -> None:
    """A test sees it where it published."""

    @subscribe("tmb_breaks", kind=f"{HERE}:breaks")
    async def breaks() -> None:
        raise ChangedMyMind

    async with Jobs(dsn) as jobs:
        with publishing("inline"), pytest.raises(ChangedMyMind):
            await jobs.publish("tmb_breaks")


@pytest.mark.parametrize("verb", [Skip("x"), Missing(), Snooze(3), Cancel(), Discard(), Finish(3)])
async def test_inline_a_verb_is_no_error(dsn: str, verb: Exception) -> None:
    """It says what is to become of a job, and there is none."""

    @subscribe("tmb_says", kind=f"{HERE}:says")
    async def says() -> None:
        seen.append(verb)
        raise verb

    def transform(event: Event) -> None:
        seen.append(event.name)
        raise verb

    subscribe("tmb_says", transform=transform)(book)
    async with Jobs(dsn) as jobs:
        with publishing("inline"):
            await jobs.publish("tmb_says")
    assert sorted(map(str, seen)) == sorted([str(verb), "tmb_says"])


@pytest.mark.seed("T13")
async def test_standalone(dsn: str) -> None:
    """ "local modes for tests": the subscribers of this process become jobs, though nobody has declared them."""
    async with running(dsn) as jobs:
        with only({}):
            await jobs.declare_subscriptions(only=True)
        with publishing("standalone"):
            done = await jobs.publish("tmb_moved", {"user_id": 7})
        said = {await jobs.handle(each).result(20) for each in done.jobs}
        assert said == {f"index 7 {done.id}", "forget 7"}


@pytest.mark.seed("T13")
async def test_suppress(dsn: str) -> None:
    """ "local modes for tests": nothing happens, and the test sees what would have; outside, all is as before."""
    async with declared(dsn) as jobs:
        with publishing("suppress") as events:
            await jobs.publish("tmb_moved", {"user_id": 7})
            with pytest.raises(InvalidInput):
                await jobs.publish("tmb_moved", {"user_id": object()})
        assert [each["user_id"] for each in events] == [7]
        assert await jobs.list_jobs() == []
        await jobs.publish("tmb_moved", {"user_id": 7})
        assert len(await jobs.list_jobs()) == 2
    with pytest.raises(InvalidOption, match="inline, standalone, suppress"), publishing("loud"):  # type: ignore[arg-type]
        pass


# What is wrong is said at once.


@pytest.mark.parametrize(
    ("name", "attributes", "given", "words"),
    [
        ("", {}, {}, "not a name"),
        ("a\nb", {}, {}, "not a name"),
        ("tmb_*", {}, {}, "is a pattern"),
        ("a", {"when": datetime(2026, 1, 1, tzinfo=UTC)}, {}, "event 'a' cannot be stored.*when"),
        ("a", {"x": float("nan")}, {}, "cannot be stored"),
        ("a", {1: 2}, {}, "keys are text"),
        ("a", [1], {}, "dictionary"),
        ("a", {}, {"delay": -1}, "negative"),
        ("a", {}, {"at": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
        ("a", {}, {"at": datetime(2026, 1, 1, tzinfo=UTC), "delay": 1}, "both say when"),
        ("a", {"x": "x" * 1_000_001}, {}, "more than the limit"),
    ],
)
async def test_what_cannot_be_published_is_said(
    dsn: str, name: Any, attributes: Any, given: Any, words: str
) -> None:
    """In the publisher, before anything is stored."""
    async with declared(dsn) as jobs:
        with pytest.raises((InvalidOption, InvalidInput), match=words):
            await jobs.publish(name, attributes, **given)
        assert await jobs.list_jobs() == []


async def test_publishing_on_what_is_no_connection_is_said(dsn: str) -> None:
    """As enqueuing there is."""
    async with declared(dsn) as jobs:
        with pytest.raises(WrongConnection, match="no connection"):
            await jobs.publish("a", on=object())


@pytest.mark.parametrize(
    ("event", "given", "words"),
    [
        ("", {}, "not a name"),
        (re.compile("(?=a)"), {}, "database matches it"),
        (re.compile("a", re.IGNORECASE), {}, "without flags"),
        ("a", {"where": {"x": object()}}, "nothing an attribute can be.*Is.PRESENT"),
        ("a", {"where": {"x": {1, 2}}}, "nothing an attribute can be"),
        ("a", {"where": {1: 2}}, "named by text"),
        ("a", {"where": ["x"]}, "no dictionary"),
        ("a", {"where": {"x": "\0"}}, "cannot be stored"),
        ("a", {"where": {"x": re.compile(r"(a)\1")}}, "database matches it"),
        ("a", {"queu": "x"}, "did you mean 'queue'"),
        ("a", {"where": {"x\0": Is.KEY}}, "cannot be stored"),
        ("a", {"where": {"x": re.compile("(?:(?:a{255}){255}){255}")}}, "characters"),
        ("a", {"name": ""}, "name='' is not a name"),
        ("a", {"name": 3}, "name=3 is not a name"),
    ],
)
def test_what_cannot_be_subscribed_is_said(event: Any, given: Any, words: str) -> None:
    """Where it is written."""

    async def function() -> None: ...

    with pytest.raises(InvalidOption, match=words):
        subscribe(event, **given)(function)


def test_what_cannot_be_a_subscriber_is_said() -> None:
    """Also where it is written."""
    with pytest.raises(InvalidDefinition, match="give this one a name of its own with name="):
        subscribe("tmb_moved", where={"a": 1})(Index)
    with pytest.raises(InvalidDefinition, match="no public method 'cal'; did you mean 'call'"):
        subscribe("tmb_moved", call="cal")(Index)
    with pytest.raises(InvalidDefinition, match="names the method of a Later class"):
        subscribe("tmb_moved", call="x")(lambda: None)
    with pytest.raises(InvalidDefinition, match="inside a function"):

        @subscribe("tmb_moved")
        async def inside() -> None: ...


async def test_a_pattern_postgres_cannot_read_fails_who_subscribes(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no publisher: should one slip through where it is written."""
    monkeypatch.setattr(patterns, "MOST_ATOMS", 10**9)

    @subscribe("tmb_any", where={"x": re.compile("(?:(?:a{255}){255}){255}")}, kind=f"{HERE}:any")
    async def any_(x: str) -> None: ...

    async with Jobs(dsn) as jobs:
        with pytest.raises(asyncpg.PostgresError, match="regular expression"):
            await jobs.declare_subscriptions()
        assert (await jobs.publish("tmb_any", {"x": "a"})).jobs == ()


async def test_what_passes_an_event_on_may_be_for_a_job_of_any_name(dsn: str) -> None:
    """A kind has 120 characters at most, and its own is made of two."""
    kind = f"{HERE}.subscribers.search_indexing:UserProfileIndexer"

    @subscribe("tmb_user_profile_changed", kind=kind, unique=True)
    async def index_profile(user_id: int) -> int:
        return user_id

    async with running(dsn) as jobs:
        done = await jobs.publish("tmb_user_profile_changed", {"user_id": 7})
        (relay,) = done.jobs
        assert await jobs.handle(await jobs.handle(relay).result(20)).result(20) == 7
        found = await jobs.get_job(relay)
        assert found is not None
        assert found.kind.startswith(kind)
        assert len(found.kind) <= 120


async def test_a_job_nobody_published_has_no_event(dsn: str) -> None:
    """It is said in words."""
    with pytest.raises(JobNotPublished, match="take the attributes as arguments"):
        current_event()
    async with running(dsn) as jobs:
        for meta in ({}, {"event": {"name": "of their own"}}, {"event": "too"}):
            handle = await ask.set(max_attempts=1, meta=meta).later()
            with pytest.raises(JobFailed, match="JobNotPublished"):
                await handle.result(20)
        assert current_job().id is None
        del jobs


async def test_attributes_that_do_not_fit_fail_one_subscriber_alone(dsn: str) -> None:
    """The others have their own jobs."""
    async with running(dsn) as jobs:
        done = await jobs.publish("tmb_asked", {"other": 1})

        async def failed() -> bool:
            found = await jobs.get_job(done.jobs[0])
            return found is not None and bool(found.errors) and "missing" in found.errors[0].error

        await eventually_async(failed)
