"""One commit with my data: the job is there when the order is, is run then, and wakes nobody before or otherwise."""

# ruff: noqa: B008, FAST002 -- the dependencies are made in a function, where no annotation can name them

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import attrs
import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncjobs import InvalidInput, InvalidOption, JobNotFound, Jobs, Later, job
from asyncjobs._engine.claimer import Rhythm
from asyncjobs._model.job import Lane
from tests.connections import KINDS, SESSIONS, engine_on
from tests.waiting import eventually_async

HERE = "test_enqueue_in_my_transaction"


@job(kind=f"{HERE}:count")
async def count(number: int) -> int:
    return number


@attrs.frozen
class Charge(Later, kind=f"{HERE}:Charge"):
    order: int

    async def call(self) -> int:
        return self.order


class ChangedMyMind(Exception):
    pass


# Awake, and asleep.


class Ears:
    """A runner of this process that only hears."""

    def __init__(self) -> None:
        self.heard: list[Lane] = []

    def is_hungry(self, lane: Lane) -> bool:  # noqa: ARG002
        return True

    def wake(self, lanes: Sequence[Lane]) -> None:
        self.heard += lanes


LANE = Lane("default", count.kind)


@pytest.mark.parametrize("kind", SESSIONS)
async def test_a_session_wakes_the_runner_of_this_process_after_its_commit(dsn: str, kind: str) -> None:
    """Not at `later`, not at a savepoint's release: when others can see the job."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        jobs.runner = ears = Ears()
        async with theirs.begin():
            await count.set(on=theirs.on).later(1)
            async with theirs.nest():
                await count.set(on=theirs.on).later(2)
            async with theirs.nest():
                await count.set(on=theirs.on).later(3)
            assert ears.heard == []
        assert ears.heard == [LANE, LANE, LANE]
        async with theirs.begin():
            await count.set(on=theirs.on).later(4)
        assert ears.heard == [LANE] * 4  # once each


@pytest.mark.failure_mode("F81")
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_rolled_back_wakes_nobody(dsn: str, kind: str) -> None:
    """Neither the runner of this process nor, later, with somebody else's commit."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        jobs.runner = ears = Ears()
        with suppress(ChangedMyMind):
            async with theirs.begin():
                await count.set(on=theirs.on).later(1)
                async with theirs.nest():
                    await count.set(on=theirs.on).later(2)
                raise ChangedMyMind
        async with theirs.begin():
            await theirs.run("select 1")
            with suppress(ChangedMyMind):
                async with theirs.nest():
                    async with theirs.nest():
                        await count.set(on=theirs.on).later(3)
                    raise ChangedMyMind
        assert ears.heard == []


@pytest.mark.parametrize("way", ["close", "error"])
async def test_a_session_that_is_only_closed_wakes_nobody(dsn: str, way: str) -> None:
    """close() without commit() is a rollback, and the next transaction of the session starts from nothing."""
    async with Jobs(dsn) as jobs, engine_on(dsn) as engine:
        jobs.runner = ears = Ears()
        session = AsyncSession(engine)
        await count.set(on=session).later(1)
        if way == "close":
            await session.close()
        else:
            with suppress(ChangedMyMind):
                async with session:
                    raise ChangedMyMind
        await count.set(on=session).later(2)
        await session.commit()
        await session.close()
        assert ears.heard == [LANE]
        assert len(await jobs.list_jobs()) == 1


async def test_a_wake_up_that_fails_does_not_fail_the_commit(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is committed, and the session must not look as if it were not."""

    class Broken(Ears):
        def wake(self, lanes: Sequence[Lane]) -> None:
            raise RuntimeError("broken ears")

    async with Jobs(dsn) as jobs, engine_on(dsn) as engine, AsyncSession(engine) as session:
        jobs.runner = Broken()
        await count.set(on=session).later(1)
        await session.commit()
        jobs.runner = None
        assert len(await jobs.list_jobs()) == 1
    assert "broken ears" in caplog.text


async def test_a_commit_that_fails_wakes_nobody(dsn: str) -> None:
    """A deferred constraint, or what was only flushed at the commit: job and data are not there."""
    async with Jobs(dsn) as jobs, engine_on(dsn) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        jobs.runner = ears = Ears()
        async with AsyncSession(engine) as session:
            session.add(Order(id=1))
            await session.commit()
        with pytest.raises(IntegrityError):
            async with AsyncSession(engine) as session, session.begin():
                await count.set(on=session).later(1)
                session.add(Order(id=1))  # flushed by the commit
        assert ears.heard == []
        assert await jobs.list_jobs() == []


@asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[list[str]]:
    """What an idle runner elsewhere would hear."""
    heard: list[str] = []
    connection = await asyncpg.connect(dsn)
    try:
        await connection.add_listener("asyncjobs:ready", lambda *what: heard.append(str(what[-1])))
        await connection.execute("select pg_advisory_lock_shared(1634364777, hashtext('asyncjobs:'))")  # idle
        yield heard
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_idle_runner_elsewhere_is_notified_after_the_commit(dsn: str, kind: str) -> None:
    """By Postgres, whoever's connection it is: with the commit, not before, and not with a rollback."""
    async with Jobs(dsn), KINDS[kind](dsn) as theirs, listening(dsn) as heard:
        with suppress(ChangedMyMind):
            async with theirs.begin():
                await count.set(on=theirs.on, queue="undone").later(1)
                raise ChangedMyMind
        async with theirs.begin():
            with suppress(ChangedMyMind):
                async with theirs.nest():
                    await count.set(on=theirs.on, queue="half undone").later(2)
                    raise ChangedMyMind
            await count.set(on=theirs.on, queue="done").later(3)
            await asyncio.sleep(0.05)
            assert heard == []
        await eventually_async(_is(heard, ["done"]))


def _is(heard: list[str], expected: list[str]) -> Any:
    async def fact() -> bool:
        return heard == expected

    return fact


@pytest.mark.parametrize("kind", ["asyncpg", "psycopg autocommit"])
async def test_without_a_transaction_the_job_commits_itself_and_wakes(dsn: str, kind: str) -> None:
    """On a connection with no transaction open, the statement is its own: stored, and the runner here is told at once."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs, listening(dsn) as heard:
        handle = await count.set(on=theirs.on).later(1)
        assert (await handle.status()).value == "available"
        await eventually_async(_is(heard, ["default"]))
        jobs.runner = ears = Ears()
        await count.set(on=theirs.on).later(2)
        assert ears.heard == [LANE]
        await asyncio.sleep(0.05)
        assert heard == ["default"]  # with a hungry runner here, nobody else is woken


@pytest.mark.parametrize("kind", ["asyncpg", "session", "session on psycopg", "psycopg"])
async def test_a_committed_job_starts_without_waiting_for_a_poll(dsn: str, kind: str) -> None:
    """The runner sleeps for minutes, unless it is woken."""
    jobs = Jobs(dsn)
    jobs._settings = attrs.evolve(jobs._settings, rhythm=Rhythm(poll=300, poll_from=300, poll_to=300))
    async with jobs.running(), KINDS[kind](dsn) as theirs:
        for number in range(3):
            async with theirs.begin():
                handle = await count.set(on=theirs.on).later(number)
            assert await handle.result(timeout=10) == number


async def test_a_session_needs_no_listen_to_wake_the_runner_here(dsn: str) -> None:
    """Behind a pooler nothing is heard, and what this process commits is run at once all the same."""
    jobs = Jobs(dsn, listen=False)
    jobs._settings = attrs.evolve(jobs._settings, rhythm=Rhythm(poll_from=300, poll_to=300))
    async with jobs.running(), engine_on(dsn) as engine, AsyncSession(engine) as session:
        await jobs.work_off()  # asleep
        for number in range(3):
            async with session.begin():
                handle = await count.set(on=session).later(number)
            assert await handle.result(timeout=10) == number


# Results.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_is_not_waited_for_inside_the_transaction_that_enqueued(dsn: str, kind: str) -> None:
    """It would wait for itself; so it is JobNotFound, at once, and the transaction goes on."""
    async with Jobs(dsn).running(), KINDS[kind](dsn) as theirs:
        async with theirs.begin():
            handle = await count.set(on=theirs.on).later(7)
            async with asyncio.timeout(5):
                with pytest.raises(JobNotFound, match="still open"):
                    await handle.result()
                with pytest.raises(JobNotFound):
                    await handle.status()
        assert await handle.result(timeout=10) == 7


# Many.


class Counted:
    """The statements an asyncpg connection runs."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def __call__(self, query: Any) -> None:
        self.statements.append(query.query)

    @property
    def inserts(self) -> int:
        return sum("insert into" in statement for statement in self.statements)


async def test_many_jobs_are_one_statement(dsn: str) -> None:
    """`later_many` and `enqueue_many` store all in one INSERT, and nothing else; the ids come in order."""
    connection = await asyncpg.connect(dsn)
    counted = Counted()
    async with Jobs(dsn) as jobs:
        with connection.query_logger(counted):
            async with connection.transaction():
                handles = await Charge.later_many(
                    [Charge(n) for n in range(500)], "call", on=connection, priority=3
                )
                mixed = await jobs.enqueue_many(
                    [
                        count.prepare(1),
                        Charge(2).prepare("call", queue="other"),
                        count.set(priority=9).prepare(3),
                    ],
                    on=connection,
                )
        assert counted.inserts == 2
        assert [
            statement
            for statement in counted.statements
            if "asyncjobs" in statement and "insert" not in statement
        ] == []
        assert [handle.id for handle in handles] == sorted(handle.id for handle in handles)
        assert [(await jobs.handle(h.id).job()).args["order"] for h in handles[::100]] == [
            0,
            100,
            200,
            300,
            400,
        ]
        assert [(found := await handle.job()).kind == count.kind for handle in mixed] == [True, False, True]
        assert found.priority == 9
        assert {(await handle.job()).priority for handle in handles[:3]} == {3}
    await connection.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_many_jobs_are_all_or_none(dsn: str, kind: str) -> None:
    """On whatever connection; and ids in the order given."""
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        with suppress(ChangedMyMind):
            async with theirs.begin():
                await jobs.enqueue_many([count.prepare(n) for n in range(5)], on=theirs.on)
                raise ChangedMyMind
        async with theirs.begin(), jobs.on(theirs.on):
            handles = await jobs.enqueue_many(count.prepare(n) for n in range(5, 10))
        assert [(await handle.job()).args["number"] for handle in handles] == [5, 6, 7, 8, 9]
        assert len(await jobs.list_jobs()) == 5


async def test_very_many_jobs_are_still_one_statement(dsn: str) -> None:
    """A hundred thousand, and nothing of a megabyte each."""
    async with Jobs(dsn) as jobs:
        handles = await Charge.later_many((Charge(n) for n in range(100_000)), "call")
        assert len({handle.id for handle in handles}) == 100_000
        counts = await jobs.count_jobs()
        assert sum(counts["default"].values()) == 100_000


@pytest.mark.failure_mode("F92")
async def test_too_much_for_one_statement_is_said_before_it_is_sent(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres reads no JSON array beyond 256 MB; the transaction is not harmed."""
    monkeypatch.setattr("asyncjobs._store.intake.MOST_JSON", 100_000)
    async with Jobs(dsn) as jobs, KINDS["session"](dsn) as theirs, theirs.begin():
        with pytest.raises(InvalidInput, match="smaller parts"):
            await jobs.enqueue_many([count.prepare(n) for n in range(5_000)], on=theirs.on)
        await theirs.run("select 1")


async def test_many_jobs_of_which_one_cannot_be_stored_are_none(dsn: str) -> None:
    """What is wrong is found before anything is sent, and the transaction is not harmed."""
    async with Jobs(dsn, payload_limit=100) as jobs, KINDS["session"](dsn) as theirs, theirs.begin():
        with pytest.raises(InvalidInput):
            await jobs.enqueue_many([count.prepare(1), count.prepare("\0")], on=theirs.on)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption):
            await jobs.enqueue_many([count.set(on=theirs.on).prepare(1)])
        await theirs.run("select 1")
    async with Jobs(dsn) as jobs:
        assert await jobs.list_jobs() == []
        assert await jobs.enqueue_many([]) == []
        assert await Charge.later_many([], "call") == []


async def test_options_of_many_jobs_that_make_no_sense_are_refused(dsn: str) -> None:
    """`enqueue_many` takes on=; what is said of each job is said where it is prepared."""
    async with Jobs(dsn) as jobs:
        with pytest.raises(InvalidOption, match="delay"):
            await jobs.enqueue_many([count.prepare(1)], delay=5)  # type: ignore[call-arg]
        assert await jobs.list_jobs() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_every_option_is_stored_alike_on_every_connection(dsn: str, kind: str) -> None:
    """Alone or among many, through whichever driver."""
    options: dict[str, Any] = {
        "delay": 3600.5, "priority": -10, "queue": "bulk \u2603 %s :x $1", "max_attempts": 3, "tags": ("a", "ü"),
        "meta": {"x": [1, None, "\u2603"]}, "timeout": 5,
    }  # fmt: skip
    async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
        async with theirs.begin():
            one = await count.set(**options, on=theirs.on).later(1)
            two = await jobs.enqueue_many([count.set(**options).prepare(1), count.prepare(2)], on=theirs.on)
            own = await count.set(**options).later(1)
        stored = [await handle.job() for handle in (one, two[0], own)]
    for each in stored:
        assert (each.priority, each.queue, each.max_attempts) == (-10, options["queue"], 3)
        assert (each.tags, each.meta, each.state.value) == (("a", "ü"), options["meta"], "scheduled")
        assert abs((each.scheduled_at - each.created_at).total_seconds() - 3600.5) < 1


# A web application.


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    charged: Mapped[bool] = mapped_column(default=False)


def _shop(jobs: Jobs, sessions: async_sessionmaker[AsyncSession]) -> FastAPI:
    """FastAPI and SQLAlchemy as their documentation has them, and jobs."""
    app = FastAPI(lifespan=jobs.lifespan)

    async def transaction() -> AsyncIterator[AsyncSession]:
        async with sessions() as session, session.begin():
            yield session

    async def joined() -> AsyncIterator[AsyncSession]:
        async with sessions() as session, session.begin(), jobs.on(session):
            yield session

    @app.post("/orders/{number}")
    async def order(number: int, session: AsyncSession = Depends(transaction), fail: bool = False) -> int:
        handle = await Charge(number).later("call", on=session)  # before anything else is said to Postgres
        session.add(Order(id=number))
        if fail:
            raise HTTPException(409)
        return handle.id

    @app.post("/ambient/{number}")
    async def ambient(number: int, session: AsyncSession = Depends(joined), fail: bool = False) -> int:
        session.add(Order(id=number))
        handle = await Charge(number).later("call")
        if fail:
            raise HTTPException(409)
        return handle.id

    @app.post("/background/{number}")
    async def background(
        number: int, tasks: BackgroundTasks, session: AsyncSession = Depends(joined)
    ) -> None:
        session.add(Order(id=number))
        tasks.add_task(count.later, number)

    return app


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_shop(dsn: str, driver: str) -> None:
    """Requests that succeed are charged, requests that fail never were, however the session comes to `later`."""
    async with engine_on(dsn, driver) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        jobs = Jobs(engine=engine)
        app = _shop(jobs, async_sessionmaker(engine, expire_on_commit=False))
        async with LifespanManager(app) as manager:
            transport = httpx.ASGITransport(manager.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                made = await asyncio.gather(*(client.post(f"/orders/{n}") for n in range(1, 11)))
                more = await asyncio.gather(*(client.post(f"/ambient/{n}") for n in range(11, 21)))
                none = await asyncio.gather(
                    *(
                        client.post(f"/{way}/{n}?fail=1")
                        for n in range(21, 26)
                        for way in ("orders", "ambient")
                    )
                )
                assert {answer.status_code for answer in none} == {409}
                assert (await client.post("/background/30")).status_code == 200
                for answer, number in zip([*made, *more], range(1, 21), strict=True):
                    assert answer.status_code == 200
                    assert await jobs.handle(answer.json()).result(timeout=10) == number
                await jobs.work_off()
                done = await jobs.list_jobs()
        assert sorted(found.args["order"] for found in done if found.kind == f"{HERE}:Charge") == list(
            range(1, 21)
        )
        assert [found.args["number"] for found in done if found.kind == count.kind] == [30]


async def test_a_job_with_the_data_it_needs(dsn: str) -> None:
    """However fast the runner is, the job never looks for an order that is not there yet."""

    async with Jobs(dsn).running(), KINDS["asyncpg"](dsn) as theirs:
        for _ in range(20):
            async with theirs.begin():
                handle = await count.set(on=theirs.on).later(1)
                await asyncio.sleep(0.005)
                with pytest.raises(JobNotFound):
                    await handle.status()
            await handle.result(timeout=10)
