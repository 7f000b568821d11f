"""Code changes while jobs wait: fields come and go, names change, and inputs get another shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import (
    Cron,
    Dependency,
    InvalidDefinition,
    InvalidInput,
    InvalidOption,
    JobFailed,
    Jobs,
    JobState,
    Later,
    Lock,
    UndecodableInput,
    Unique,
    UnknownKind,
    current_job,
    job,
    subscribe,
)
from asyncjobs._bus.subscribing import unsubscribe
from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._define.fitting import BATCH, Report, check_waiting
from asyncjobs._define.history import History
from asyncjobs._engine import attempt
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._model.versions import name_and_version, stored_name
from tests.kinds import forgotten
from tests.waiting import eventually_async

pytestmark = pytest.mark.usefixtures("forgetting")


async def enqueue(jobs: Jobs, kind: str, args: Mapping[str, Any], **options: Any) -> int:
    """Store a job as code stored it that is not this code: by the SQL function."""
    async with jobs.connection() as connection:
        return int(
            await connection.fetchval(
                "select asyncjobs.enqueue($1, $2::text::jsonb, $3::text::jsonb)",
                kind,
                orjson.dumps(dict(args)).decode(),
                orjson.dumps(options).decode(),
            )
        )


async def result(jobs: Jobs, job_id: int) -> Any:
    return await jobs.handle(job_id).result(timeout=20)


# Fields that come and go.


@attrs.frozen
class Address:
    city: str
    country: str = "IS"


@pytest.mark.failure_mode("F94")
async def test_what_is_gone_is_ignored_and_what_is_new_has_its_default(running: Jobs) -> None:
    """A key nobody declares any more, and a missing one with a default: in inputs, inside of one, and among arguments."""

    @attrs.frozen
    class Ship(Later, kind="evolution:Ship"):
        to: Address
        express: bool = False

        async def call(self) -> str:
            return f"{self.to} {self.express}"

        @job
        async def track(self, carrier: str, tries: int = 3) -> str:
            return f"{self.to.city} {carrier} {tries}"

    stored = {"to": {"city": "Reykjavík", "street": "Aðalstræti"}, "weight": 12}
    call = await enqueue(running, "evolution:Ship", stored, method="call")
    assert await result(running, call) == "Address(city='Reykjavík', country='IS') False"
    track = await enqueue(
        running, "evolution:Ship", stored | {"()": {"carrier": "post", "gone": 1}}, method="track"
    )
    assert await result(running, track) == "Reykjavík post 3"


async def test_extra_keys_are_refused_in_the_caller() -> None:
    """Only what is stored already is tolerated: `later` takes what is declared, and nothing else."""

    @job(kind="evolution:narrow")
    async def narrow(user_id: int) -> None: ...

    with pytest.raises(InvalidInput, match="does not take these arguments"):
        await narrow.later(1, gone=2)  # type: ignore[call-arg]


@pytest.mark.failure_mode("F94")
async def test_a_missing_input_fails_at_once_and_says_what_to_do(running: Jobs) -> None:
    """One attempt, not ten: the error names the input, the kind and the version. Once the code is right, `retry` runs it."""
    attempts: list[int] = []

    def deployed(**default: Any) -> None:
        @attrs.frozen
        class Charge(Later, kind="evolution:Charge"):
            amount: int
            currency: str = attrs.field(**default)

            async def call(self) -> str:
                attempts.append(current_job().attempt)
                return f"{self.amount} {self.currency}"

    deployed()
    job_id = await enqueue(running, "evolution:Charge", {"amount": 5}, method="call")
    with pytest.raises(
        JobFailed,
        match=r"Charge.call needs 'currency', which this job was stored without; give it a default for jobs enqueued before it "
        r"\(kind 'evolution:Charge', stored at version 1\)",
    ):
        await result(running, job_id)
    found = await running.get_job(job_id)
    assert found is not None
    assert (found.state, found.attempt, found.max_attempts, attempts) == (JobState.FAILED, 1, 10, [])
    deployed(default="ISK")
    assert await running.retry(job_id)
    assert await result(running, job_id) == "5 ISK"
    assert attempts == [1]


@pytest.mark.failure_mode("F94")
async def test_an_input_of_another_type_fails_at_once(running: Jobs) -> None:
    """As a missing one does; the error names where, and shows what is stored."""

    @job(kind="evolution:typed")
    async def typed(user_id: int) -> None: ...

    job_id = await enqueue(running, "evolution:typed", {"user_id": ["seven"]})
    with pytest.raises(JobFailed, match=r"stored input user_id does not fit .* \(kind 'evolution:typed', "):
        await result(running, job_id)
    assert (await running.handle(job_id).job()).attempt == 1


# Other names.


@pytest.mark.failure_mode("F93")
async def test_a_renamed_class_runs_what_waits_under_its_former_name(running: Jobs) -> None:
    """With the code of today; what is new is stored under today's name. One that failed before is retried."""

    @attrs.frozen
    class InvoiceCharge(Later, kind="evolution:InvoiceCharge"):
        invoice: int

        async def call(self) -> str:
            raise RuntimeError("as it was")

    failed = await InvoiceCharge(1).later("call", max_attempts=1)
    with pytest.raises(JobFailed):
        await failed.result(timeout=20)
    registry._kinds.clear()

    @attrs.frozen
    class ChargeInvoice(Later, kind="evolution:ChargeInvoice", aliases=["evolution:InvoiceCharge"]):
        invoice: int

        async def call(self) -> str:
            return f"{current_job().kind} {self.invoice}"

    waiting = await enqueue(running, "evolution:InvoiceCharge", {"invoice": 2}, method="call")
    assert await result(running, waiting) == "evolution:ChargeInvoice 2"
    assert await running.retry(failed.id)
    assert await result(running, failed.id) == "evolution:ChargeInvoice 1"
    new = await ChargeInvoice(3).later("call")
    assert await new.result(timeout=20) == "evolution:ChargeInvoice 3"
    assert (await new.job()).kind == "evolution:ChargeInvoice"
    assert (await running.handle(waiting).job()).kind == "evolution:InvoiceCharge"


async def test_a_renamed_function(running: Jobs) -> None:
    """`@job(aliases=[…])`, several of them."""

    @job(kind="evolution:welcome", aliases=["evolution:greet", "evolution:hello"])
    async def welcome(user_id: int) -> int:
        return user_id

    ids = [
        await enqueue(running, kind, {"user_id": number})
        for number, kind in enumerate(("evolution:greet", "evolution:hello", "evolution:welcome"))
    ]
    assert [await result(running, each) for each in ids] == [0, 1, 2]


async def test_a_renamed_method(running: Jobs) -> None:
    """A job that names it as it was called runs what it is called now; in the caller there is only today's name."""

    @attrs.frozen
    class Account(Later, kind="evolution:Account", renamed={"bill": "charge", "note": "remark"}):
        id: int

        async def charge(self) -> int:
            return self.id

        @job
        async def remark(self, text: str) -> str:
            return f"{self.id} {text}"

    bill = await enqueue(running, "evolution:Account", {"id": 7}, method="bill")
    note = await enqueue(running, "evolution:Account", {"id": 7, "()": {"text": "hm"}}, method="note")
    assert [await result(running, bill), await result(running, note)] == [7, "7 hm"]
    with pytest.raises(InvalidDefinition, match="has no public method 'bill'"):
        await Account(7).later("bill")


async def test_a_method_that_newer_code_has(
    running: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Costs no attempt under older code, as a kind does not: it goes back until a process has the method, and says so."""
    monkeypatch.setattr(attempt, "LEFT_TO_OTHERS", (0.05, 0.05))

    @attrs.frozen
    class Account(Later, kind="evolution:Account", max_attempts=1):
        id: int

        async def charge(self) -> int:
            return self.id

    asked = await enqueue(running, "evolution:Account", {"id": 7}, method="remind", max_attempts=1)
    await eventually_async(lambda: _says(caplog, f"job {asked} is left to a process that knows its method"))

    async def returned() -> bool:
        found = await running.get_job(asked)
        assert found is not None
        assert (found.attempt - (found.state is JobState.RUNNING), found.state.is_final) == (0, False)
        return len(found.errors) > 1

    await eventually_async(returned)
    assert [each.levelname for each in caplog.records if "is left to a process" in each.getMessage()][:2] in (
        ["WARNING"],
        ["WARNING", "DEBUG"],
    )
    with forgotten():
        del registry._kinds["evolution:Account"]

        @attrs.frozen
        class Newer(Later, kind="evolution:Account", max_attempts=1):
            id: int

            async def remind(self) -> int:
                return -self.id

        assert await result(running, asked) == -7
    found = await running.get_job(asked)
    assert found is not None
    assert found.attempt == 1
    assert "has no public method 'remind'" in found.errors[0].error
    assert found.errors[0].traceback is None


async def _says(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return words in caplog.text


async def test_keys_outlast_a_renaming(dsn: str) -> None:
    """What is unique collides with what waits under the former names, of the class and of the method; so do its locks."""

    @attrs.frozen
    class OldIndex(Later, kind="evolution:OldIndex", unique="user", lock=Lock("user")):
        user: int

        async def update(self) -> None: ...

    async with Jobs(dsn) as jobs:
        first = await OldIndex(1).later("update")
        registry._kinds.clear()

        @attrs.frozen
        class Index(
            Later,
            kind="evolution:Index",
            unique="user",
            lock=Lock("user"),
            aliases=["evolution:OldIndex"],
            renamed={"update": "call"},
            version=2,
            upcasters={1: dict},
        ):
            user: int

            async def call(self) -> None: ...

        again = await Index(1).later("call")
        other = await Index(2).later("call")
        assert (again.id, again.created, other.created) == (first.id, False, True)
        async with jobs.connection() as connection:
            keys = await connection.fetch("select lock_key from asyncjobs.live_jobs where id > 0 order by id")
        renamed = Index(1).prepare("call").new_job(Codec())
        assert [renamed.lock_key, renamed.lock_key != keys[1][0]] == [keys[0][0], True]


async def test_replaced_inputs_are_of_the_version_of_who_replaced_them(dsn: str) -> None:
    """A job that waits under its former name and version is that of today once newer code has replaced its inputs."""
    alike = Unique("user", on_conflict="replace")

    @job(kind="evolution:OldNotice", unique=alike)
    async def old_notice(user: int, text: str) -> None: ...

    async with Jobs(dsn) as jobs:
        waiting = await old_notice.later(1, "old")
        registry._kinds.clear()

        @job(
            kind="evolution:notice",
            unique=alike,
            aliases=["evolution:OldNotice"],
            version=2,
            upcasters={1: lambda inputs: {"user": inputs["user"], "lines": [inputs["text"]]}},
        )
        async def notice(user: int, lines: list[str]) -> list[str]:
            return lines

        assert (await notice.later(1, ["new", "lines"])).id == waiting.id
    async with Jobs(dsn).running() as jobs:
        assert await result(jobs, waiting.id) == ["new", "lines"]
        found = await jobs.handle(waiting.id).job()
        assert (found.kind, found.version) == ("evolution:notice", 2)


def test_names_that_are_taken() -> None:
    """Where they are defined: a stored job must not be meant for two."""

    @job(kind="evolution:one", aliases=["evolution:was"])
    async def one() -> None: ...

    with pytest.raises(
        InvalidDefinition, match=r"was 'evolution:one' before \(aliases=\), which is .*one today"
    ):

        @job(kind="evolution:two", aliases=["evolution:one"])
        async def two() -> None: ...

    with pytest.raises(
        InvalidDefinition, match=r"one says that it was 'evolution:was' .* which is .*three today"
    ):

        @job(kind="evolution:was")
        async def three() -> None: ...

    with pytest.raises(InvalidDefinition, match="both say that they were 'evolution:was' before"):

        @job(kind="evolution:four", aliases=["evolution:was"])
        async def four() -> None: ...

    with pytest.raises(InvalidDefinition, match="is of kind 'evolution:five' today"):

        @job(kind="evolution:five", aliases=["evolution:five"])
        async def five() -> None: ...

    with pytest.raises(InvalidDefinition, match=r"has no method 'chrge'.*did you mean 'charge'"):

        class Typo(Later, kind="evolution:Typo", renamed={"bill": "chrge"}):
            async def charge(self) -> None: ...

    with pytest.raises(InvalidDefinition, match="has 'bill', though it says that this is called 'charge'"):

        class Both(Later, kind="evolution:Both", renamed={"bill": "charge"}):
            async def charge(self) -> None: ...
            async def bill(self) -> None: ...

    assert not {"evolution:two", "evolution:four", "evolution:five"} & registry.known_kinds()


def test_a_reloaded_definition_replaces_its_names() -> None:
    """What the one before it was known by is known no more."""

    def cell(*aliases: str, version: int = 1) -> None:
        upcasters = dict.fromkeys(range(1, version), dict)

        @job(kind="evolution:cell", aliases=aliases, version=version, upcasters=upcasters)
        async def cell() -> None: ...

    cell("evolution:a", "evolution:b", version=2)
    names = {"evolution:cell", "evolution:a", "evolution:b"}
    assert {name for name in registry.known_kinds() if name_and_version(name)[0] in names} == {
        f"{name}{version}" for name in names for version in ("", "@2")
    }
    cell("evolution:b")
    assert {name for name in registry.known_kinds() if name_and_version(name)[0] in names} == {
        "evolution:cell",
        "evolution:b",
    }
    assert [each.kind for each in registry.definitions()].count("evolution:cell") == 1


async def test_a_subclass_is_not_what_its_base_was(running: Jobs) -> None:
    """Former names are nobody's but their own class'; renamed methods, the version and upcasters are inherited."""

    @attrs.frozen
    class Base(
        Later,
        kind="evolution:Base",
        aliases=["evolution:Basis"],
        renamed={"run": "call"},
        version=2,
        upcasters={1: lambda inputs: {"cents": inputs["amount"] * 100}},
    ):
        cents: int

        async def call(self) -> str:
            return f"{type(self).__name__} {self.cents}"

    @attrs.frozen
    class Heir(Base, kind="evolution:Heir"):
        pass

    assert await result(running, await enqueue(running, "evolution:Basis", {"amount": 3}, method="run")) == (
        "Base 300"
    )
    assert await result(running, await enqueue(running, "evolution:Heir", {"amount": 4}, method="run")) == (
        "Heir 400"
    )


# Queues.


async def test_a_renamed_queue(dsn: str) -> None:
    """Who serves it claims what waits under its former name; what is new is stored under today's, whoever says the former."""

    @job(kind="evolution:queued", queue="refresh_old")
    async def queued(number: int) -> int:
        return number

    queues = QueueRegistry()
    queues.register("account").queue("refresh", -50, priority=3, aliases=["refresh_old"])
    async with Jobs(dsn, queues=queues) as jobs:
        before = await enqueue(jobs, "evolution:queued", {"number": 1}, queue="refresh_old")
    async with Jobs(dsn, queues=queues).running() as jobs:
        assert await result(jobs, before) == 1
        handle = await queued.later(2)
        assert await handle.result(timeout=20) == 2
        found = await handle.job()
        assert (found.queue, found.priority) == ("account_refresh", 3)
        assert (queues.weight_of("refresh_old"), "refresh_old" in queues) == (-50, True)
        await jobs.pause("account_refresh")
        assert await jobs.paused_queues() == {"account_refresh", "refresh_old"}
        await jobs.resume("refresh_old")
        assert await jobs.paused_queues() == set()
        late = await enqueue(jobs, "evolution:queued", {"number": 3}, queue="refresh_old")
        assert await result(jobs, late) == 3


def test_names_of_queues_that_are_taken() -> None:
    """A queue has its former names for itself."""
    queues = QueueRegistry()
    own = queues.register().queue("mail", aliases=["post"]).queue("bulk")
    own.queue("mail", aliases=["letters"])
    assert queues.names_of("mail") == queues.names_of("post") == ["mail", "letters", "post"]
    for name, aliases, says in (
        ("post", (), "is what 'mail' was called before"),
        ("news", ["bulk"], "'bulk' is registered itself"),
        ("news", ["news"], "'news' is registered itself"),
        ("news", ["post"], "'mail' and 'news' were both called 'post'"),
        ("news", "post", "is one queue"),
        ("news", [""], "is not a name"),
    ):
        with pytest.raises(InvalidOption, match=says):
            own.queue(name, aliases=aliases)
    assert "news" not in queues


# Versions.


def to_cents(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "cents": round(inputs.pop("amount") * 100)}


def with_currency(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"currency": "EUR", **inputs}


@attrs.frozen
class Invoice(
    Later,
    kind="evolution:Invoice",
    version=3,
    upcasters={1: to_cents, 2: with_currency},
    aliases=["evolution:Bill"],
):
    cents: int
    currency: str

    async def call(self) -> str:
        return f"{self.cents} {self.currency}"


async def test_inputs_of_former_versions_are_brought_up_to_date(dsn: str) -> None:
    """Each step in turn, from the version that was stored, under each name; today's are taken as they are."""
    async with Jobs(dsn).running() as jobs:
        for kind in ("evolution:Invoice", "evolution:Bill"):
            for version, args in (
                (1, {"amount": 1.5}),
                (2, {"cents": 150}),
                (3, {"cents": 150, "currency": "EUR"}),
            ):
                job_id = await enqueue(jobs, stored_name(kind, version), args, method="call")
                assert await result(jobs, job_id) == "150 EUR"
                found = await jobs.handle(job_id).job()
                assert (found.kind, found.version, found.args) == (kind, version, args)
        handle = await Invoice(7, "ISK").later("call")
        assert await handle.result(timeout=20) == "7 ISK"
        found = await handle.job()
        assert (found.kind, found.version, found.name) == ("evolution:Invoice", 3, "Invoice.call")
        async with jobs.connection() as connection:
            stored = await connection.fetchval("select kind from asyncjobs.jobs where id = $1", handle.id)
        assert stored == "evolution:Invoice@3"
        assert len(await jobs.list_jobs(kinds=["Invoice"])) == 4
        assert len(await jobs.list_jobs(kinds=["evolution:Bill"])) == 3
        assert [each.version for each in await jobs.list_jobs(kinds=["evolution:Invoice@2"])] == [2]


@pytest.mark.failure_mode("F93", "F94")
async def test_newer_code_s_jobs_are_left_to_newer_code(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """In a rolling deployment old processes do not touch what they cannot read: no attempt is burnt, and it is said."""

    @job(kind="evolution:rolling", version=2, upcasters={1: dict})
    async def old(value: str) -> str:
        return f"old {value}"

    async with Jobs(dsn).running() as jobs:
        job_id = await enqueue(jobs, "evolution:rolling@3", {"values": ["x"]})

        async def is_said() -> bool:
            return "its inputs are of version 3, and this process knows version 2" in caplog.text

        with caplog.at_level(logging.WARNING, "asyncjobs"):
            await eventually_async(is_said)
        found = await jobs.handle(job_id).job()
        assert (found.state, found.attempt, found.version) == (JobState.AVAILABLE, 0, 3)
        assert await result(jobs, await enqueue(jobs, "evolution:rolling@2", {"value": "y"})) == "old y"
    with forgotten():
        registry._kinds.clear()

        @job(kind="evolution:rolling", version=3, upcasters={2: lambda inputs: {"values": [inputs["value"]]}})
        async def new(values: list[str]) -> str:
            return f"new {values}"

        async with Jobs(dsn).running() as jobs:
            assert await result(jobs, job_id) == "new ['x']"


@pytest.mark.failure_mode("F94")
@pytest.mark.parametrize(
    ("version", "says"),
    [
        (
            1,
            r"nothing makes version 2 of inputs of version 1; add it to upcasters= .*stored at version 1 of 4",
        ),
        (
            2,
            r"what makes version 3 of inputs of version 2 raised KeyError: 'gone' .*stored at version 2 of 4",
        ),
        (3, r"the upcasters from version 3 made what is not plain JSON data: .*stored at version 3 of 4"),
    ],
)
async def test_upcasters_that_fail_fail_the_job_at_once(running: Jobs, version: int, says: str) -> None:
    """There is no step from so old a version any more, a step raises, or makes what no JSON is."""

    @job(
        kind="evolution:broken",
        version=4,
        upcasters={2: lambda inputs: {"value": inputs["gone"]}, 3: lambda _: {"value": object()}},
    )
    async def broken(value: int) -> None: ...

    job_id = await enqueue(running, stored_name("evolution:broken", version), {"value": 1})
    with pytest.raises(JobFailed, match=says):
        await result(running, job_id)
    assert (await running.handle(job_id).job()).attempt == 1


class Room:
    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.failure_mode("F94")
async def test_whoever_asks_for_the_inputs_gets_those_of_today(dsn: str) -> None:
    """`current_job().args`, of a job stored at a former version: for providers, middleware, hooks and the job itself.

    The upcasters run once; the job keeps its inputs as they were stored.
    """
    seen: list[tuple[str, object]] = []
    upcast: list[int] = []

    def see(where: str) -> None:
        seen.append((where, dict(current_job().args)))

    def renamed(inputs: Mapping[str, Any]) -> dict[str, Any]:
        upcast.append(1)
        return {"number": inputs["no"]}

    @attrs.frozen
    class Clean(Later, kind="evolution:Clean", version=2, upcasters={1: renamed}):
        number: int
        room: Dependency[Room]

        async def needed(self) -> bool:
            see("needed")
            return True

        async def on_start(self) -> None:
            see("hook")

        async def call(self) -> int:
            see("job")
            return self.room.number

    def find_room() -> Room:
        see("provider")
        return Room(current_job().args["number"])

    class Seeing:
        async def run(self, job: Any, call_next: Callable[[], Any]) -> Any:
            see("middleware")
            assert job.args == {"number": 7}
            return await call_next()

    async with Jobs(dsn, provide={Room: find_room}, middleware=[Seeing()]).running() as jobs:
        job_id = await enqueue(jobs, "evolution:Clean", {"no": 7}, method="call")
        assert await result(jobs, job_id) == 7
        assert (await jobs.handle(job_id).job()).args == {"no": 7}
    places = ["provider", "middleware", "needed", "hook", "job"]
    assert (seen, upcast) == ([(place, {"number": 7}) for place in places], [1])


@pytest.mark.failure_mode("F94")
async def test_nothing_is_provided_for_inputs_nobody_can_read(dsn: str) -> None:
    """Upcasters come before providers: one that fails fails the job at once; who is told of it sees what is stored."""
    told: list[Mapping[str, Any]] = []
    provided: list[int] = []

    @job(kind="evolution:unreadable", version=2, upcasters={1: lambda inputs: {"number": inputs["gone"]}})
    async def unreadable(number: int, room: Dependency[Room]) -> None: ...

    def find_room() -> Room:
        provided.append(1)
        return Room(current_job().args["number"])

    class Telling:
        async def failure(self, job: Any, error: BaseException) -> None:
            assert isinstance(error, UndecodableInput)
            told.append(job.args)

    async with Jobs(dsn, provide={Room: find_room}, middleware=[Telling()]).running() as jobs:
        job_id = await enqueue(jobs, "evolution:unreadable", {"no": 7})
        with pytest.raises(JobFailed, match=r"KeyError: 'gone' .*stored at version 1 of 2"):
            await result(jobs, job_id)
    assert (provided, told) == ([], [{"no": 7}])


async def test_everything_that_stores_jobs_stores_their_version(dsn: str) -> None:
    """Many at once, at once in the caller, on a schedule, for an event, with a key; and a schedule keeps its name."""

    @subscribe("evolved")
    @job(kind="evolution:everywhere", version=2, upcasters={1: dict})
    async def everywhere(number: int = 0) -> str:
        return f"{current_job().kind} {number}"

    cron = Cron("0 0 1 1 *", everywhere)
    assert cron.name == "everywhere"
    async with Jobs(dsn, schedules=[cron]).running() as jobs:
        await eventually_async(jobs.schedules.list)
        handles = await jobs.enqueue_many([everywhere.prepare(1), everywhere.set(unique=True).prepare(2)])
        ids = [
            *(handle.id for handle in handles),
            (await everywhere.set(run="now").later(3)).id,
            *(await jobs.publish("evolved", {"number": 4})).jobs,
            (await jobs.schedules.run_now("everywhere")).id,
        ]
        assert [await result(jobs, each) for each in ids] == [
            f"evolution:everywhere {number}" for number in (1, 2, 3, 4, 0)
        ]
        assert {(await jobs.handle(each).job()).version for each in ids} == {2}
    unsubscribe("evolution:everywhere on evolved")


def test_histories_that_make_no_sense() -> None:
    """Where they are written, with a sentence that says what to write."""

    async def plain() -> None: ...

    async def step(inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    refused: list[tuple[dict[str, Any], str]] = [
        ({"version": 0}, "version=0 is not a whole number from 1"),
        ({"version": True}, "version=True is not a whole number"),
        ({"version": 2}, r"version=2 of @job needs upcasters=\{1: …\}"),
        (
            {"version": 4, "upcasters": {1: dict, 3: dict}},
            r"needs upcasters=\{2: …\}: what makes inputs of version 3",
        ),
        (
            {"upcasters": {1: dict}},
            r"has upcasters from version 1, which is not before version=1; say version=2",
        ),
        ({"version": 2, "upcasters": {0: dict, 1: dict}}, "has 0 for a version"),
        ({"version": 2, "upcasters": {"1": dict}}, "has '1' for a version"),
        ({"version": 2, "upcasters": [dict]}, "is not a dictionary of versions and functions"),
        (
            {"version": 2, "upcasters": {1: step}},
            "make it a plain function that takes the stored inputs of version 1",
        ),
        ({"version": 2, "upcasters": {1: "step"}}, "make it a plain function"),
        ({"aliases": "old"}, r"write aliases=\['old'\]"),
        ({"aliases": ["a", "a"]}, "says one name twice"),
        ({"aliases": ["a@2"]}, "alias='a@2' ends as a version does; name the kind"),
        ({"aliases": [""]}, "is not a name"),
        ({"aliases": 7}, "is not a list of the kinds"),
        ({"kind": "evolution:x@2"}, "ends as a version does; name the kind, and say version=2"),
        ({"renamed": ["a"]}, "is not a dictionary of former names"),
    ]
    for options, says in refused:
        with pytest.raises(InvalidOption, match=says):
            job(**options)(plain)
    with pytest.raises(InvalidDefinition, match="is a function, which has no methods"):
        job(kind="evolution:plain", renamed={"a": "b"})(plain)
    with pytest.raises(InvalidDefinition, match="is its class' to say, so say upcasters= there"):

        class Versioned(Later, kind="evolution:Versioned"):
            @job(version=2, upcasters={1: dict})
            async def call(self) -> None: ...


Step = Callable[[dict[str, Any]], dict[str, Any]]


def _rename(former: str, today: str) -> Step:
    return lambda inputs: {today if name == former else name: value for name, value in inputs.items()}


def _add(name: str, value: Any) -> Step:
    return lambda inputs: {name: value, **inputs}


def _drop(name: str) -> Step:
    return lambda inputs: {key: value for key, value in inputs.items() if key != name}


def _wrap(name: str) -> Step:
    return lambda inputs: {**inputs, name: [inputs.get(name)]}


names = st.sampled_from(["a", "b", "c", "d"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('ab\\"é'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
steps = (
    st.builds(_rename, names, names)
    | st.builds(_add, names, values)
    | st.builds(_drop, names)
    | st.builds(_wrap, names)
)


@given(chain=st.lists(steps, min_size=1, max_size=6), inputs=st.dictionaries(names, values), data=st.data())
def test_a_chain_of_upcasters_is_each_of_its_steps(
    chain: list[Step], inputs: dict[str, Any], data: st.DataObject
) -> None:
    """From whichever version: the first step and then the chain from there is the chain; the last is today's."""
    history = History(len(chain) + 1, dict(enumerate(chain, 1)))
    start = data.draw(st.integers(1, len(chain)))
    came_to = history.upcast(dict(inputs), start, "kind")
    expected = dict(inputs)
    for number in range(start, len(chain) + 1):
        assert history.upcast(dict(expected), number, "kind") == came_to
        expected = chain[number - 1](expected)
    assert came_to == expected == history.upcast(dict(expected), len(chain) + 1, "kind")


@given(chain=st.lists(steps, min_size=1, max_size=4), inputs=st.dictionaries(names, values))
def test_a_job_gets_what_the_chain_makes(chain: list[Step], inputs: dict[str, Any]) -> None:
    """Whatever plain data they are: nothing is lost between the upcasters and the function."""
    with forgotten():

        @job(
            kind="evolution:chained",
            version=len(chain) + 1,
            upcasters={
                number: lambda stored, step=step: {"data": step(stored["data"])}  # type: ignore[misc]
                for number, step in enumerate(chain, 1)
            },
        )
        def chained(data: dict[str, Any]) -> dict[str, Any]:
            return data

        expected = inputs
        for step in chain:
            expected = step(expected)
        stored = orjson.dumps({"data": inputs}).decode()
        call = registry.find("evolution:chained").bind(None, stored, Codec(), {})
        assert call.function() == expected


@given(st.text(min_size=1).filter(lambda name: name_and_version(name) == (name, 1)), st.integers(1, 1000))
def test_a_stored_name_is_read_back(kind: str, version: int) -> None:
    """Of every kind that may be defined."""
    assert name_and_version(stored_name(kind, version)) == (kind, version)


# What a check before a deployment finds.


class Mailer: ...


def _positive(_: object, __: object, value: int) -> None:
    if value <= 0:
        raise ValueError(f"not s3cret: {value}")


async def test_what_waits_is_decoded(dsn: str) -> None:
    """Every job that is not final, alike ones counted together; what fits is not spoken of, and nothing is called."""
    called: list[str] = []

    @attrs.frozen
    class Parcel(
        Later,
        kind="evolution:Parcel",
        version=2,
        upcasters={1: lambda inputs: {"to": inputs["city"] if "city" in inputs else int(inputs["town"])}},
    ):
        to: str
        weight: int = attrs.field(default=1, validator=_positive)

        async def call(self) -> None:
            called.append("call")

        @job
        async def track(self, carrier: str) -> None: ...

    @attrs.frozen
    class Letter(Later, kind="evolution:Letter"):
        to: str
        mailer: Dependency[Mailer]

        def __attrs_post_init__(self) -> None:
            called.append("made")

        async def call(self) -> None: ...

    async with Jobs(dsn, provide={Mailer: Mailer}) as jobs:
        good = [
            await enqueue(jobs, "evolution:Parcel", {"city": "Ísafjörður"}, method="call"),
            await enqueue(jobs, "evolution:Parcel@2", {"to": "Ísafjörður"}, method="call", delay=1e6),
            await enqueue(jobs, "evolution:Letter", {"to": "Höfn"}, method="call"),
        ]
        assert await check_waiting(jobs, Codec()) == Report(3, [])
        bad: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            ("evolution:Gone", {}, {}),
            ("evolution:Parcel@3", {}, {"method": "call"}),
            ("evolution:Parcel@2", {"to": "x"}, {"method": "send"}),
            ("evolution:Parcel@2", {}, {"method": "call"}),
            ("evolution:Parcel@2", {"to": "x", "weight": "s3cret"}, {"method": "call"}),
            ("evolution:Parcel@2", {"to": "x", "weight": 0}, {"method": "call"}),
            ("evolution:Parcel@2", {"to": "x", "()": {}}, {"method": "track"}),
            ("evolution:Parcel", {"town": "s3cret"}, {"method": "call"}),
            ("evolution:Letter", {}, {"method": "call", "queue": "post"}),
        ]
        ids = {
            (kind, str(args)): [
                await enqueue(jobs, kind, args, **options)
                for _ in range(7 if kind == "evolution:Gone" else 1)
            ]
            for kind, args, options in bad
        }
        report = await check_waiting(jobs, Codec())
        assert report.jobs == len(good) + len(bad) + 6
        found = {
            (each.reason, each.kind, each.version, each.method, each.input): each for each in report.findings
        }
        assert set(found) == {
            ("unknown kind", "evolution:Gone", 1, None, None),
            ("newer version", "evolution:Parcel", 3, None, None),
            ("unknown method", "evolution:Parcel", 2, "send", None),
            ("missing input", "evolution:Parcel", 2, "call", "to"),
            ("input does not fit", "evolution:Parcel", 2, "call", "weight"),
            ("cannot be made", "evolution:Parcel", 2, "call", None),
            ("missing input", "evolution:Parcel", 2, "track", "carrier"),
            ("upcaster fails", "evolution:Parcel", 1, "call", None),
            ("missing input", "evolution:Letter", 1, "call", "to"),
        }
        assert report.findings[0].jobs == 7
        assert report.findings[0].ids == ids["evolution:Gone", "{}"][:5]
        assert str(report.findings[0]).startswith("7 jobs of evolution:Gone, stored at version 1 (")
        assert called == []
        assert not [each for each in report.findings if "s3cret" in str(each)]
        only = await check_waiting(jobs, Codec(), queues=["post"])
        assert [(each.kind, only.jobs) for each in only.findings] == [("evolution:Letter", 1)]
        others = await check_waiting(jobs, Codec(), foreign_kinds=True)
        assert {each.reason for each in others.findings} == {each[0] for each in found} - {"unknown kind"}
        for job_ids in ids.values():
            for each in job_ids:
                await jobs.cancel(each)
        assert (await check_waiting(jobs, Codec())).findings == []


async def test_what_was_renamed_is_told_how_to_say_so(dsn: str) -> None:
    """A kind like one there is: `aliases=`. An input that is missing beside one that is too many: a version, before a default."""

    @attrs.frozen
    class ChargeInvoice(Later, kind="evolution.shop:ChargeInvoice", version=2, upcasters={1: dict}):
        number: int

        async def call(self) -> None: ...

        @job
        async def remind(self, address: str) -> None: ...

    @job(kind="evolution.shop:greet")
    async def greet(user: int, locale: str) -> None: ...

    async with Jobs(dsn) as jobs:
        for kind, args, method in (
            ("evolution.shop:InvoiceCharge@2", {"number": 1}, "call"),
            ("quite_another:Thing", {}, None),
            ("evolution.shop:ChargeInvoice@2", {"no": "s3cret"}, "call"),
            ("evolution.shop:ChargeInvoice@2", {"number": 1, "x": 1, "()": {"to": "s3cret"}}, "remind"),
            ("evolution.shop:ChargeInvoice", {"no": 1}, "call"),
            ("evolution.shop:greet", {"user": 1}, None),
            ("evolution.shop:greet", {"id": 1, "a": 1, "b": 1, "c": 1}, None),
        ):
            await enqueue(jobs, kind, args, **({} if method is None else {"method": method}))
        report = await check_waiting(jobs, Codec())
    says = {each.ids[0]: each.says for each in report.findings}
    base = min(says)
    said = [says[base + nth] for nth in range(7)]
    assert said[0].endswith(
        "did you mean 'evolution.shop:ChargeInvoice'? If it is that one, which was renamed, say "
        "aliases=['evolution.shop:InvoiceCharge'] there"
    )
    assert said[1].endswith("import the module that defines it")
    if_renamed = (
        "which nothing takes; if that was renamed, or has another shape now, say version={} and upcasters={{{}: …}}, which makes "
        "the one of the other; if not, give {!r} a default"
    )
    assert said[2].endswith(" stored without, and with 'no', " + if_renamed.format(3, 2, "number"))
    assert said[3].endswith(" stored without, and with 'to', " + if_renamed.format(3, 2, "address"))
    assert said[4].endswith("stored without; give it a default for jobs enqueued before it")
    assert said[5].endswith("stored without; give it a default for jobs enqueued before it")
    assert said[6].endswith("and with 'a', 'b', 'c', …, " + if_renamed.format(2, 1, "user"))
    assert "s3cret" not in str(said)


async def test_many_jobs_are_read_a_batch_at_a_time(dsn: str) -> None:
    """By their ids: each is read once, and no more than a batch is in memory."""

    @job(kind="evolution:many")
    async def many(number: int) -> None: ...

    async with Jobs(dsn) as jobs:
        async with jobs.connection() as connection:
            await connection.execute(
                "insert into asyncjobs.live_jobs (queue, kind, args) select 'default', 'evolution:many', "
                "case when n % 1000 = 0 then '{}' else jsonb_build_object('number', n) end "
                f"from generate_series(1, {2 * BATCH + 1}) n"
            )
        asked: list[int] = []

        class Watched:
            async def ask(self, question: Any, *args: Any, **given: Any) -> Any:
                rows = await jobs.ask(question, *args, **given)
                asked.append(len(rows))
                return rows

        report = await check_waiting(Watched(), Codec())  # type: ignore[arg-type]
        assert asked == [BATCH, BATCH, 1, 0]
        assert report.jobs == 2 * BATCH + 1
        assert [each.jobs for each in report.findings] == [2 * BATCH // 1000]


def test_a_stored_kind_that_newer_code_wrote_is_named() -> None:
    """Where it is asked for."""
    with pytest.raises(
        UnknownKind,
        match=r"stored by newer code: its inputs are of version 4, and this process knows version 3",
    ):
        registry.find("evolution:Invoice@4")
    with pytest.raises(UndecodableInput) as raised:
        registry.find("evolution:Invoice").try_out("call", '{"sum": 1}', Codec())
    assert (raised.value.reason, raised.value.input) == ("upcaster fails", None)
