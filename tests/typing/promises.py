"""What the contract promises to type checkers: this file is checked, by mypy and by pyright, and never run.

An expected error stands beside a suppression for each checker, and both checkers report a suppression that suppresses
nothing: an error that vanishes fails as loudly as one that appears.
"""

# pyright: strict, reportUnusedClass=false, reportUnusedExpression=false

from __future__ import annotations

import dataclasses
import re
from collections.abc import Coroutine
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, Unpack, assert_type

import attrs
from asyncjobs import (
    Event,
    Is,
    current_event,
    in_context,
    publishing,
    subscribe,
    Backoff,
    Connection,
    Constant,
    Cron,
    Dependency,
    Every,
    Exponential,
    Handle,
    HeldJob,
    Job,
    JobOptions,
    JobState,
    JobStats,
    Jobs,
    Later,
    LaterOptions,
    Lock,
    Rate,
    Prepared,
    Retry,
    QueueRegistry,
    SUPPLIED,
    Schedule,
    TICK,
    Unique,
    carry,
    current_job,
    job,
    queues,
)
from asyncjobs.testing import (
    Clock,
    all_enqueued,
    assert_enqueued,
    drain,
    frozen_clock,
    inline,
    refute_enqueued,
)
from asyncjobs.testing import inside as on_stage

T = TypeVar("T")


class Mail:
    def send(self, to: int) -> str:
        return f"{to}"


# A service object, now or later.


@attrs.frozen
class ExportStations(
    Later, queue="exports", max_attempts=5, timeout=timedelta(minutes=5), backoff=Constant(3)
):
    tenant: str
    mailer: Dependency[Mail] = attrs.Factory(Mail)
    other: Dependency[Mail] = SUPPLIED

    async def needed(self) -> bool:
        assert_type(self.mailer, Mail)
        assert_type(self.other, Mail)
        return bool(self.mailer.send(3))

    async def call(self) -> int:
        return 1

    def in_a_thread(self) -> datetime:
        return datetime.now(UTC)

    async def with_default(self, limit: int = 3) -> list[int]:
        return [limit]

    async def with_arguments(self, limit: int) -> None: ...


async def a_service(export: ExportStations, jobs: Jobs) -> None:
    assert_type(await export.call(), int)
    assert_type(await export.later("call"), Handle[Any])
    assert_type(await export.later(export.call), Handle[int])
    assert_type(await export.later(export.in_a_thread), Handle[datetime])
    assert_type(await export.later(export.with_default), Handle[list[int]])
    assert_type(export.prepare(export.call), Prepared[int])
    assert_type(export.prepare("call", priority=3), Prepared[Any])
    assert_type(await jobs.enqueue_many([export.prepare(export.call)]), list[Handle[int]])
    assert_type(await ExportStations.later_many([export], "call", priority=3), list[Handle[Any]])
    await export.later(
        "call",
        on=object(),
        jobs=jobs,
        delay=timedelta(hours=24),
        at=datetime.now(UTC),
        priority=-10,
        queue="bulk",
        max_attempts=3,
        timeout=None,
        backoff=Exponential(first=timedelta(seconds=2), longest=60),
        tags=["a"],
        meta={"a": 1},
    )


async def a_service_misused(export: ExportStations) -> None:
    await export.later(export.cal)  # type: ignore[attr-defined]  # pyright: ignore
    await export.later(export.with_arguments)  # type: ignore[arg-type]  # pyright: ignore
    await export.later("call", quue="exports")  # type: ignore[call-overload]  # pyright: ignore
    await export.later("call", tenant="acme")  # type: ignore[call-overload]  # pyright: ignore
    await export.later("call", delay="5 s")  # type: ignore[call-overload]  # pyright: ignore
    await export.later("call", tags=3)  # type: ignore[call-overload]  # pyright: ignore
    await export.later()  # type: ignore[call-overload]  # pyright: ignore
    export.prepare("call", quue="exports")  # type: ignore[call-overload]  # pyright: ignore
    await ExportStations.later_many([export], "call", quue="exports")  # type: ignore[call-arg]  # pyright: ignore
    await ExportStations.later_many([3], "call")  # type: ignore[list-item]  # pyright: ignore
    ExportStations(3)  # type: ignore[arg-type]  # pyright: ignore
    ExportStations("acme", mailer="post")  # type: ignore[arg-type]  # pyright: ignore


class Misspelt(Later, quue="exports"):  # type: ignore[call-arg]  # pyright: ignore
    pass


class OfTheWrongType(Later, priority="high"):  # type: ignore[arg-type]  # pyright: ignore
    pass


@dataclasses.dataclass(slots=True)
class Data(Later, queue="data"):
    tenant: str

    async def call(self) -> str:
        return self.tenant


class Plain(Later):
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    async def call(self) -> str:
        return self.tenant


@attrs.frozen
class Box(Later, Generic[T]):
    held: T

    async def call(self) -> T:
        return self.held

    @job
    async def swapped(self, other: T) -> T:
        return other


async def other_shapes(data: Data, plain: Plain, box: Box[int]) -> None:
    assert_type(await data.later(data.call), Handle[str])
    assert_type(await plain.later(plain.call), Handle[str])
    assert_type(await box.later(box.call), Handle[int])
    assert_type(await box.swapped.later(3), Handle[int])
    await box.swapped.later("x")  # type: ignore[arg-type]  # pyright: ignore


# A function or a single method, fully typed.


@job
async def bare(user_id: int) -> int:
    return user_id


@job(queue="mail", backoff=Exponential(first=timedelta(seconds=2)))
async def send_welcome(user_id: int, *, locale: str = "en") -> str:
    return f"{user_id} {locale}"


@job
def in_a_thread(user_id: int) -> bytes:
    return bytes(user_id)


@job(priority=3)
def in_a_thread_with_options(user_id: int) -> bytes:
    return bytes(user_id)


@job
async def with_dependency(user_id: int, mailer: Dependency[Mail] = Mail()) -> str:
    assert_type(mailer, Mail)
    return mailer.send(user_id)


@job
async def without_result() -> None: ...


async def functions(jobs: Jobs) -> None:
    assert_type(await bare(42), int)
    assert_type(await send_welcome(42), str)
    await assert_type(send_welcome(42), Coroutine[Any, Any, str])
    assert_type(in_a_thread(42), bytes)
    handle = await send_welcome.later(42, locale="de")
    assert_type(handle, Handle[str])
    assert_type(await send_welcome.set(on=object(), delay=timedelta(minutes=5)).later(42), Handle[str])
    assert_type(await send_welcome.set(delay=5).set(priority=3).later(42), Handle[str])
    assert_type(await send_welcome.set(lock=("user_id", "locale")).later(42), Handle[str])
    assert_type(await send_welcome.set(lock=Lock("user_id", slots=3)).later(42), Handle[str])
    hourly = Rate(100, per=timedelta(hours=1), by=("user_id", "locale"), weight="user_id", window="sliding")
    assert_type(await send_welcome.set(rate=hourly).later(42), Handle[str])
    assert_type(await send_welcome.set(fair="user_id").later(42), Handle[str])
    assert_type(await bare.later(42), Handle[int])
    assert_type(await in_a_thread.later(42), Handle[bytes])
    assert_type(await in_a_thread_with_options.later(42), Handle[bytes])
    assert_type(await with_dependency.later(42), Handle[str])
    assert_type(await without_result.later(), Handle[None])
    assert_type(send_welcome.prepare(42), Prepared[str])
    assert_type(send_welcome.set(priority=3).prepare(42), Prepared[str])
    assert_type(await jobs.enqueue_many([send_welcome.prepare(1)]), list[Handle[str]])
    mixed = await jobs.enqueue_many([send_welcome.prepare(1), bare.prepare(2), without_result.prepare()])
    assert_type(mixed[0].id, int)

    assert_type(await handle.result(timeout=10), str)
    assert_type(await handle.result(timedelta(seconds=10)), str)
    assert_type(await handle.status(), JobState)
    assert_type(await handle.job(), Job)
    assert_type(handle.id, int)
    assert_type(handle.created, bool)
    assert_type(jobs.handle(3), Handle[Any])


async def functions_misused() -> None:
    await send_welcome("42")  # type: ignore[arg-type]  # pyright: ignore
    await send_welcome.later("42")  # type: ignore[arg-type]  # pyright: ignore
    await send_welcome.later()  # type: ignore[call-arg]  # pyright: ignore
    await send_welcome.later(42, locle="de")  # type: ignore[call-arg]  # pyright: ignore
    await send_welcome.later(42, "de")  # type: ignore[call-arg]  # pyright: ignore
    await send_welcome.later(42, delay=5)  # type: ignore[call-arg]  # pyright: ignore
    await send_welcome.set(priority=3).later("42")  # type: ignore[arg-type]  # pyright: ignore
    await send_welcome.set(priority=3).later()  # type: ignore[call-arg]  # pyright: ignore
    send_welcome.prepare()  # type: ignore[call-arg]  # pyright: ignore
    send_welcome.set(quue="mail")  # type: ignore[call-arg]  # pyright: ignore
    send_welcome.set(priority="high")  # type: ignore[arg-type]  # pyright: ignore
    send_welcome.set(lock=5)  # type: ignore[arg-type]  # pyright: ignore
    send_welcome.set(rate=5)  # type: ignore[arg-type]  # pyright: ignore
    Rate(5, window="rolling")  # type: ignore[arg-type]  # pyright: ignore
    send_welcome.set(fair=5)  # type: ignore[arg-type]  # pyright: ignore
    send_welcome.set(fair=True)  # type: ignore[arg-type]  # pyright: ignore
    send_welcome.set(kind="other")  # type: ignore[call-arg]  # pyright: ignore
    send_welcome.latr  # type: ignore[attr-defined]  # pyright: ignore
    number: int = await (await send_welcome.later(42)).result()  # type: ignore[assignment]  # pyright: ignore
    del number


@job(quue="mail")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore
async def misspelt() -> None: ...


@job(priority="high")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore
async def of_the_wrong_type() -> None: ...


@attrs.frozen
class Mailer(Later):
    sender: str

    @job
    async def welcome(self, user_id: int, *, locale: str = "en") -> str:
        return f"{user_id} {locale}"

    @job(queue="slow")
    def in_a_thread(self, *user_ids: int) -> list[int]:
        return list(user_ids)

    @job
    async def no_arguments(self) -> str:
        return self.sender


async def methods(mailer: Mailer, jobs: Jobs) -> None:
    assert_type(await mailer.welcome(42), str)
    assert_type(mailer.in_a_thread(1, 2), list[int])
    assert_type(await mailer.welcome.later(42, locale="de"), Handle[str])
    assert_type(await mailer.in_a_thread.later(1, 2), Handle[list[int]])
    assert_type(await mailer.welcome.set(priority=3).later(42), Handle[str])
    assert_type(await mailer.welcome.set(priority=3).set(queue="a").later(42), Handle[str])
    assert_type(mailer.welcome.prepare(42), Prepared[str])
    assert_type(await jobs.enqueue_many([mailer.welcome.prepare(42)]), list[Handle[str]])
    assert_type(await mailer.later(mailer.no_arguments), Handle[str])
    assert_type(await Mailer.welcome(mailer, 42), str)
    assert_type(mailer.welcome.__name__, str)


async def methods_misused(mailer: Mailer) -> None:
    await mailer.welcome("42")  # type: ignore[arg-type]  # pyright: ignore
    await mailer.welcome.later("42")  # type: ignore[arg-type]  # pyright: ignore
    await mailer.welcome.later()  # type: ignore[call-arg]  # pyright: ignore
    await mailer.welcome.later(42, locle="de")  # type: ignore[call-arg]  # pyright: ignore
    await mailer.welcome.set(quue="mail").later(42)  # type: ignore[call-arg]  # pyright: ignore
    await mailer.welcome.set(priority=3).later("42")  # type: ignore[arg-type]  # pyright: ignore
    await mailer.later(mailer.welcome)  # type: ignore[arg-type]  # pyright: ignore
    mailer.welcome.latr  # type: ignore[attr-defined]  # pyright: ignore


# Options are one vocabulary, which a wrapper of one's own can speak.


async def enqueue_politely(export: ExportStations, **options: Unpack[LaterOptions]) -> None:
    await export.later("call", **options)
    send_welcome.set(**options)


def described(**options: Unpack[JobOptions]) -> None: ...


described(queue="mail", tags=("a", "b"))


# Unique in the queue.


@job(unique=Unique("user", until="end", window=timedelta(hours=1), on_conflict=("replace", "reschedule")))
async def indexed(user: int) -> str:
    return f"{user}"


async def once() -> None:
    handle = await indexed.set(unique=("user",)).later(1)
    assert_type(handle, Handle[str])
    assert_type(handle.created, bool)
    await indexed.set(unique=None).later(1)
    await indexed.set(unique=3).later(1)  # type: ignore[arg-type]  # pyright: ignore
    Unique("user", until="never")  # type: ignore[arg-type]  # pyright: ignore
    Unique("user", on_conflict="ignore")  # type: ignore[arg-type]  # pyright: ignore


described(on=None)  # type: ignore[call-arg]  # pyright: ignore


class Fibonacci:
    def delay(self, attempt: int, dice: float) -> float:
        return attempt * dice


backoff: Backoff = Fibonacci()
also: Backoff = Exponential()


# Inside a job.


async def inside() -> None:
    async with current_job().transaction() as connection:
        assert_type(connection, Connection)
        await connection.execute("update …", 3)
        async with connection.transaction():
            rows = await connection.fetch("select 1")
        del rows
    current_job().result = 3
    await current_job().complete(on=object(), result=3)
    assert_type(current_job().id, int | None)
    assert_type(current_job().attempt, int)


# Sync code, and looking.


def sync_code(export: ExportStations, mailer: Mailer) -> None:
    assert_type(export.later_sync("call"), Handle[Any])
    assert_type(export.later_sync(export.call, on=object(), delay=3), Handle[int])
    assert_type(export.later_sync(export.in_a_thread), Handle[datetime])
    assert_type(send_welcome.later_sync(42, locale="de"), Handle[str])
    assert_type(send_welcome.set(on=object()).later_sync(42), Handle[str])
    assert_type(in_a_thread.later_sync(42), Handle[bytes])
    assert_type(mailer.welcome.later_sync(42, locale="de"), Handle[str])
    assert_type(mailer.welcome.set(priority=3).later_sync(42), Handle[str])


def sync_code_misused(export: ExportStations) -> None:
    export.later_sync(export.cal)  # type: ignore[attr-defined]  # pyright: ignore
    export.later_sync("call", quue="exports")  # type: ignore[call-overload]  # pyright: ignore
    send_welcome.later_sync("42")  # type: ignore[arg-type]  # pyright: ignore
    send_welcome.set(priority=3).later_sync()  # type: ignore[call-arg]  # pyright: ignore


def a_bound_session(jobs: Jobs) -> None:
    with jobs.on(object()) as bound:
        assert_type(bound, Jobs)


async def looking(jobs: Jobs, prepared: list[Prepared[int]]) -> None:
    assert_type(await jobs.stats(), list[JobStats])
    assert_type(await jobs.states(), list[HeldJob])
    assert_type([each.name for each in await jobs.list_jobs(tags=["eu"])], list[str])
    assert_type(await jobs.enqueue_many(prepared, wake=False), list[Handle[int]])
    await jobs.list_jobs(tags=3)  # type: ignore[arg-type]  # pyright: ignore


# What repeats.


@job
async def report(until: datetime) -> int:
    return until.year


async def repeating(export: ExportStations) -> None:
    nightly = Cron("0 3 * * *", export, timezone="Europe/Berlin", missed="all", window=timedelta(days=1))
    jobs = Jobs("postgresql://…", schedules=[nightly, Every(60, report.prepare(TICK), overlap="skip")])
    await jobs.schedules.create(nightly, on=object(), replace=True)
    assert_type(await jobs.schedules.list(), list[Schedule])
    assert_type(await jobs.schedules.get("x"), Schedule)
    assert_type(await jobs.schedules.preview("x", 3), list[datetime])
    assert_type(await jobs.schedules.run_now("x"), Handle[Any])
    assert_type(nightly.preview(2), list[datetime])
    assert_type(current_job().tick, datetime | None)


def repeating_misused(export: ExportStations) -> None:
    Every(60, report)  # type: ignore[arg-type]  # pyright: ignore
    Every(60, export.call)  # type: ignore[arg-type]  # pyright: ignore
    Every(60, export, missed="never")  # type: ignore[arg-type]  # pyright: ignore
    Cron("0 3 * * *", export, tz="Europe/Berlin")  # type: ignore[call-arg]  # pyright: ignore
    Jobs("postgresql://…", schedules=[report])  # type: ignore[list-item]  # pyright: ignore


# Queues, weights and slots.

registry = QueueRegistry()
registry.register("account").queue("default", 100).full_queue("mail", priority=3).queue("refresh", -5000)
registry.register("billing", default=100, reports=-5)
registry.register("billing", default="heavy")  # type: ignore[arg-type]  # pyright: ignore
queues.register(default=100)

slots_of: dict[str, int] = {"default": 20}
Jobs("", queues=slots_of)
Jobs("", queues={"default": 20, "mail": None})
Jobs("", queues={("exports", "mail"): 2, "*": 20})
Jobs(
    "",
    queues=registry,
    slots="10,30,any",
    min_priority=-5,
    max_priority=5,
    reserved=0,
    poll=timedelta(days=1),
)
Jobs("", slots=[10, None])
Jobs("", slots=2.5)  # type: ignore[arg-type]  # pyright: ignore
Jobs("", queues=["default"])  # type: ignore[arg-type]  # pyright: ignore
described(app="account")
described(app=None)
described(app=3)  # type: ignore[arg-type]  # pyright: ignore


# Context, hooks and verbs.

language: ContextVar[str] = ContextVar("language")
Jobs("", context=[language, carry(language, encode=str, decode=str)], run="now", timeout=timedelta(hours=1))
Jobs("", run=lambda job: "now" if job.queue == "mail" else "later")
Jobs("", run="never")  # type: ignore[arg-type]  # pyright: ignore
Jobs("", context=["locale"])  # type: ignore[list-item]  # pyright: ignore
described(run="now", backoff=30)
described(backoff=lambda attempt: timedelta(seconds=attempt), context={"locale": "de"})
described(run="never")  # type: ignore[arg-type]  # pyright: ignore
described(keep="nothing")  # type: ignore[call-arg]  # pyright: ignore


@job(keep="without args", keep_failed="nothing", overtime=True)
async def keeps_little() -> None:
    raise Retry(timedelta(minutes=1), "not yet")


class KeepsAll(Later, keep="all"): ...  # type: ignore[arg-type]  # pyright: ignore


async def settled() -> None:
    await current_job().settle(Retry(60), on=object())
    await current_job().settle("retry", on=object())  # type: ignore[arg-type]  # pyright: ignore
    Retry()  # type: ignore[call-arg]  # pyright: ignore


# The message bus.


@subscribe(
    "user_changed", where={"plan": "pro", "email": Is.PRESENT, "name": re.compile("^A")}, queue="index"
)
async def reindex(user_id: int, event: Event) -> str:
    return f"{user_id} {event['plan']} {event.published_at:%c}"


@subscribe(re.compile("^user_"))
@job(queue="audit")
def audited(user_id: int) -> None: ...


def to_forget(event: Event) -> Forgotten:
    return Forgotten(event["user_id"])


@subscribe("user_deleted", call="forget", transform=to_forget)
@attrs.frozen
class Forgotten(Later):
    user_id: int

    async def forget(self) -> None: ...


async def published(jobs: Jobs) -> None:
    assert_type(await reindex.later(1, event=current_event()), Handle[str])
    assert_type(await audited.later(1), Handle[None])
    assert_type(Forgotten(1).user_id, int)
    done = await jobs.publish("user_changed", {"user_id": 1}, on=object(), delay=timedelta(hours=1))
    assert_type(done.jobs, tuple[int, ...])
    assert_type(done.id, str)
    with publishing("inline") as events, in_context("import"):
        assert_type(events, list[Event])
    await jobs.publish("user_changed", "user 1")  # type: ignore[arg-type]  # pyright: ignore
    publishing("loud")  # type: ignore[arg-type]  # pyright: ignore


subscribe(1)  # type: ignore[arg-type]  # pyright: ignore
subscribe("a", wehre={})  # type: ignore[call-arg]  # pyright: ignore


# For tests.


async def helped(jobs: Jobs) -> None:
    async with on_stage(jobs, object()) as staged, frozen_clock(at=datetime(2030, 1, 1, tzinfo=UTC)) as clock:
        assert_type(staged, Jobs)
        assert_type(clock, Clock)
        assert_type(await clock.advance(hours=24), datetime)
        assert_type(
            await assert_enqueued(Forgotten, args={"user_id": 1}, delay=timedelta(hours=1)), list[Job]
        )
        await refute_enqueued(Forgotten(1), on=object(), states=[JobState.FAILED, "skipped"])
        assert_type(await all_enqueued("send", tags=["a"]), list[Job])
        assert_type(await drain(queues=["mail"], with_scheduled=clock.now, raises=False), dict[str, int])
        with inline(jobs):
            pass
    await assert_enqueued(Forgotten, quue="mail")  # type: ignore[call-arg]  # pyright: ignore
    await drain(with_scheduled="tomorrow")  # type: ignore[arg-type]  # pyright: ignore


def to_cents(stored: dict[str, Any]) -> dict[str, Any]:
    return {"cents": stored["amount"] * 100}


@attrs.frozen
class Evolved(Later, aliases=["old:Name"], renamed={"run": "call"}, version=2, upcasters={1: to_cents}):
    cents: int

    async def call(self) -> None: ...


@job(aliases=["old:name"], version=2, upcasters={1: lambda stored: {**stored, "locale": "is"}})
async def evolved(locale: str) -> None: ...


job(upcasters={1: "to_cents"})  # type: ignore[dict-item]  # pyright: ignore
