"""TResque's queue_lock, as `unique=`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import asyncpg
import attrs
import pytest

from asyncjobs import DuplicateJob, Exponential, InvalidDefinition, Jobs, JobState, Later, Unique, job
from tests.running import running
from tests.waiting import eventually_async

HERE = "seeds/unique"
gates: dict[str, asyncio.Event] = {}
begun: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    gates.clear()
    begun.clear()
    yield
    for gate in gates.values():
        gate.set()


async def hold(name: str) -> str:
    begun.append(name)
    await gates.setdefault(name, asyncio.Event()).wait()
    return name


@attrs.frozen
class ByAttributes(Later, kind=f"{HERE}:ByAttributes", unique=("user_id", "year")):
    user_id: int
    year: int
    reason: str = ""

    async def call(self) -> str:
        return await hold(self.reason)


@attrs.frozen
class ByAll(Later, kind=f"{HERE}:ByAll", unique=True):
    user_id: int
    reason: str = ""

    async def call(self) -> None: ...

    async def sweep(self) -> None: ...


@attrs.frozen
class ByComputed(Later, kind=f"{HERE}:ByComputed", unique="user_id"):
    """The class in TResque's README: `user_id` is no input, it is computed."""

    path: str

    def user_id(self) -> int:
        return int(self.path.rpartition("/")[2])

    async def call(self) -> None: ...


@attrs.frozen
class ByProperty(Later, kind=f"{HERE}:ByProperty", unique="user_id"):
    path: str

    @property
    def user_id(self) -> int:
        return int(self.path.rpartition("/")[2])

    async def call(self) -> None: ...


@job(kind=f"{HERE}:send", unique=("user", "locale"))
async def send(user: int, locale: str = "en", *, text: str = "") -> None: ...


@job(kind=f"{HERE}:held", unique=Unique("name", until="end"), max_attempts=2, backoff=Exponential(first=0))
async def held(name: str, fails: bool = False) -> str:
    if fails and begun.count(name) == 0:
        begun.append(name)
        raise ValueError("once")
    return await hold(name)


@job(kind=f"{HERE}:started", unique="name", max_attempts=2, backoff=Exponential(first=timedelta(hours=1)))
async def started(name: str, fails: bool = False) -> str:
    if fails and begun.count(name) == 0:
        begun.append(name)
        raise ValueError("once")
    return await hold(name)


@job(kind=f"{HERE}:quick", unique=Unique("name", until="end"))
async def quick(name: str, number: int = 0) -> int:
    return number


@pytest.mark.seed("T4")
async def test_a_key_is_of_chosen_attributes(dsn: str) -> None:
    """T4: queue_lock: by attrs."""
    async with Jobs(dsn):
        first = await ByAttributes(1, 2026, "first").later("call")
        same = await ByAttributes(1, 2026, "same").later("call")
        other = await ByAttributes(1, 2027).later("call")
    assert (first.created, same.created, other.created) == (True, False, True)
    assert same.id == first.id != other.id


@pytest.mark.seed("T4")
async def test_a_key_is_of_all_inputs(dsn: str) -> None:
    """T4: queue_lock: by `all`. Each method of a class has its own."""
    async with Jobs(dsn):
        calls = [
            await ByAll(1, "a").later("call"),
            await ByAll(1, "a").later("call"),
            await ByAll(1, "b").later("call"),
            await ByAll(1, "a").later("sweep"),
        ]
    assert [each.created for each in calls] == [True, False, True, True]


@pytest.mark.seed("T4")
@pytest.mark.parametrize("cls", [ByComputed, ByProperty])
async def test_a_key_is_computed(dsn: str, cls: type[ByComputed]) -> None:
    """T4: queue_lock: by computed method attr, as TResque's README shows it."""
    async with Jobs(dsn):
        calls = [await cls(path).later("call") for path in ("users/7", "people/7", "users/8")]
    assert [each.created for each in calls] == [True, False, True]


@pytest.mark.seed("T4")
async def test_what_is_left_out_counts_as_its_default(dsn: str) -> None:
    """T4: queue_lock: by attrs. A function's are its arguments, however they are passed."""
    async with Jobs(dsn):
        calls = [
            await send.later(1),
            await send.later(1, "en", text="another"),
            await send.later(user=1, locale="en"),
            await send.later(1, "de"),
        ]
    assert [each.created for each in calls] == [True, False, False, True]


@pytest.mark.seed("T4")
async def test_a_key_is_released_when_its_job_starts(dsn: str) -> None:
    """T4: released at start (default)."""
    async with running(dsn):
        first = await ByAttributes(1, 1, "first").later("call")
        await eventually_async(lambda: _began("first"))
        second = await ByAttributes(1, 1, "second").later("call")
        assert second.created
        await eventually_async(lambda: _began("second"))
        gates["second"].set()
        gates["first"].set()
        assert await first.result(timeout=20) == "first"


@pytest.mark.seed("T4")
async def test_a_key_is_released_when_its_job_ends(dsn: str) -> None:
    """T4: … or at end (option). A duplicate's handle is the running job's, and has its result."""
    async with running(dsn):
        first = await held.later("job")
        await eventually_async(lambda: _began("job"))
        second = await held.later("job")
        assert (second.created, second.id) == (False, first.id)
        gates["job"].set()
        assert await second.result(timeout=20) == "job"
        assert (await held.later("job")).created


@pytest.mark.seed("T4")
async def test_a_rollback_frees_the_key(dsn: str) -> None:
    """T4: lock is atomic with enqueue and lives in the same transaction (rollback frees it)."""
    connection = await asyncpg.connect(dsn)
    try:
        async with Jobs(dsn):
            transaction = connection.transaction()
            await transaction.start()
            assert (await quick.set(on=connection).later("job")).created
            await transaction.rollback()
            assert (await quick.later("job")).created
    finally:
        await connection.close()


@pytest.mark.seed("T4")
async def test_a_duplicate_is_told_of_the_job_that_exists(dsn: str) -> None:
    """T4: returns existing job id instead of silence."""
    async with Jobs(dsn) as jobs:
        first = await quick.later("job", number=1)
        second = await quick.later("job", number=2)
        assert second.id == first.id
        assert not second.created
        assert len(await jobs.list_jobs(kinds=[quick.kind])) == 1


@pytest.mark.seed("T4")
async def test_a_retry_keeps_the_key_until_the_end(dsn: str) -> None:
    """T4: retry keeps/reacquires it deterministically: until="end" holds it through all attempts."""
    async with running(dsn) as jobs:
        first = await held.later("job", fails=True)
        await eventually_async(lambda: _began("job", 2))
        assert (await jobs.get_job(first.id)).attempt == 2  # type: ignore[union-attr]
        assert (await held.later("job", fails=True)).id == first.id
        gates["job"].set()
        await first.result(timeout=20)


@pytest.mark.seed("T4")
async def test_a_retry_does_not_take_the_key_again_once_it_started(dsn: str) -> None:
    """T4: retry keeps/reacquires it deterministically: with until="start" it is free from the first start on."""
    async with running(dsn):
        first = await started.later("job", fails=True)
        await eventually_async(lambda: _is(first, JobState.RETRYABLE))
        second = await started.set(delay=3600).later("job")
        assert second.created
        assert not (await started.later("job")).created


@pytest.mark.seed("T4")
async def test_a_scheduled_job_holds_its_key_until_it_starts(dsn: str) -> None:
    """T4, §3.1's inference on `run_at`: a delayed job holds the key from the enqueue on, not from when it is due."""
    async with Jobs(dsn) as jobs:
        first = await started.set(delay=3600).later("job")
        assert (await started.later("job")).id == first.id
        assert (await first.status()) is JobState.SCHEDULED
        await jobs.cancel(first.id)
        assert (await started.later("job")).created


@pytest.mark.seed("T4")
@pytest.mark.parametrize("until", ["start", "end"])
async def test_cancelling_frees_the_key(dsn: str, until: str) -> None:
    """T4: freed on cancel/delete/discard."""
    async with Jobs(dsn):
        rule = Unique("name", until=until)  # type: ignore[arg-type]
        first = await quick.set(unique=rule).later("job")
        assert await first.cancel() == "cancelled"
        assert (await quick.set(unique=rule).later("job")).created


@pytest.mark.seed("T4")
async def test_a_window_keeps_the_key_though_the_job_has_ended(dsn: str) -> None:
    """T4: optional expiry. A window runs from the enqueue; a key is never stale, for it goes with its job."""
    rule = Unique("name", window=timedelta(hours=1))
    async with running(dsn) as jobs:
        first = await quick.set(unique=rule).later("job", number=1)
        assert await first.result(timeout=20) == 1
        second = await quick.set(unique=rule).later("job", number=2)
        assert (second.created, second.id) == (False, first.id)
        assert await second.result(timeout=20) == 1
        async with jobs.connection() as connection:
            await connection.execute(
                "update asyncjobs.unique_windows set expires_at = now() - interval '1 s'"
            )
        third = await quick.set(unique=rule).later("job", number=3)
        assert third.created
        assert (await quick.set(unique=rule).later("job", number=4)).id == third.id
        assert (await jobs.get_job(third.id)) is not None


@pytest.mark.seed("T4")
async def test_a_retry_by_hand_takes_the_key_again_if_it_is_free(dsn: str) -> None:
    """T4: retry reacquires it deterministically: of a job that has ended, when nobody else has it."""
    async with Jobs(dsn) as jobs:
        first = await quick.later("job")
        await first.cancel()
        await jobs.retry(first.id)
        assert (await quick.later("job")).id == first.id
        await first.cancel()
        second = await quick.later("job")
        assert second.created
        assert await jobs.retry(first.id)
        assert await first.status() is JobState.AVAILABLE
        assert (await quick.later("job")).id == second.id


@pytest.mark.seed("T6")
async def test_a_key_is_given_with_the_call(dsn: str) -> None:
    """T6: per-enqueue dynamic locks (`queue_lock_key=`)."""
    async with Jobs(dsn):
        calls = [
            await quick.set(unique=Unique(key="mine")).later("a"),
            await quick.set(unique=Unique(key="mine")).later("b"),
            await quick.set(unique=Unique(key="other")).later("a"),
            await quick.set(unique=None).later("a"),
            await quick.set(unique=None).later("a"),
        ]
    assert [each.created for each in calls] == [True, False, True, True, True]


@pytest.mark.seed("T6")
async def test_a_namespace_spans_kinds(dsn: str) -> None:
    """T6, §3.1 `lock_namespace`: across classes."""
    rule = Unique(key="one", namespace="everybody's")
    async with Jobs(dsn):
        first = await quick.set(unique=rule).later("a")
        second = await ByAll(1).later("call", unique=rule)
        assert (second.created, second.id) == (False, first.id)


@pytest.mark.seed("T6")
async def test_both_locks_on_one_job(dsn: str) -> None:
    """T6: both locks on one job. One runs, one waits for it, and whoever comes then is the one that waits."""
    both = {"unique": "name", "lock": "name"}
    async with running(dsn) as jobs:
        first = await started.set(**both).later("job")  # type: ignore[arg-type]
        await eventually_async(lambda: _began("job"))
        second = await started.set(**both).later("job")  # type: ignore[arg-type]
        assert second.created
        await eventually_async(lambda: _is(second, JobState.BLOCKED))
        third = await started.set(**both).later("job")  # type: ignore[arg-type]
        assert (third.created, third.id) == (False, second.id)
        gates["job"].set()
        await first.result(timeout=20)
        await second.result(timeout=20)
        assert len(await jobs.list_jobs(kinds=[started.kind])) == 2


# What becomes of the one that waits.


async def test_a_waiting_job_gets_the_new_inputs(dsn: str) -> None:
    """on_conflict="replace": the same job, at its place, with what was said last."""
    rule = Unique("name", on_conflict="replace")
    async with Jobs(dsn) as jobs:
        first = await quick.set(unique=rule, tags=["old"]).later("job", number=1)
        before = await jobs.get_job(first.id)
        second = await quick.set(unique=rule, meta={"by": "me"}).later("job", number=2)
        after = await jobs.get_job(first.id)
    assert before is not None
    assert after is not None
    assert (second.created, second.id) == (False, first.id)
    assert (after.args, after.tags, after.meta) == ({"name": "job", "number": 2}, (), {"by": "me"})
    assert (after.scheduled_at, after.created_at) == (before.scheduled_at, before.created_at)


async def test_a_waiting_job_is_put_off(dsn: str) -> None:
    """on_conflict="reschedule": debounce. Its time becomes the new one's, its inputs stay; with "replace", they go along."""
    rule = Unique("name", on_conflict="reschedule")
    async with Jobs(dsn) as jobs:
        first = await quick.set(unique=rule, delay=10).later("job", number=1)
        await quick.set(unique=rule, delay=3600).later("job", number=2)
        put_off = await jobs.get_job(first.id)
        assert put_off is not None
        assert put_off.scheduled_at - put_off.created_at > timedelta(minutes=50)
        assert (put_off.state, put_off.args["number"]) == (JobState.SCHEDULED, 1)
        both = Unique("name", on_conflict=("replace", "reschedule"))
        await quick.set(unique=both).later("job", number=3)
        now = await jobs.get_job(first.id)
        assert now is not None
        assert (now.state, now.args["number"]) == (JobState.AVAILABLE, 3)
        await quick.set(unique=both, delay=3600).later("job", number=4)
        assert await first.status() is JobState.SCHEDULED


async def test_what_is_rejected_leaves_the_transaction_as_it_was(dsn: str) -> None:
    """on_conflict="reject" raises in the caller, and what else was done in the transaction is committed."""
    rule = Unique("name", on_conflict="reject")
    connection = await asyncpg.connect(dsn)
    try:
        async with Jobs(dsn) as jobs:
            first = await quick.set(unique=rule).later("job")
            async with connection.transaction():
                with pytest.raises(DuplicateJob, match="has the unique key") as told:
                    await quick.set(unique=rule, on=connection).later("job")
                several = [quick.set(unique=rule).prepare(name) for name in ("a", "job", "b")]
                with pytest.raises(DuplicateJob):
                    await jobs.enqueue_many(several, on=connection)
                await quick.set(on=connection).later("other")
            with pytest.raises(DuplicateJob):
                await jobs.enqueue_many(several)
            stored = await jobs.list_jobs(kinds=[quick.kind])
    finally:
        await connection.close()
    assert told.value.job_id == first.id
    assert {each.args["name"] for each in stored} == {"job", "other"}


async def test_many_of_which_some_are_alike_are_stored_together(dsn: str) -> None:
    """Duplicates among those given are one job; the handles come in the order given, and the jobs run in it."""
    async with Jobs(dsn) as jobs:
        before = await quick.later("d")
        names = ["c", "a", "c", "d", "b", "a"]
        plain = quick.set(unique=None).prepare("plain")
        handles = await jobs.enqueue_many([*map(quick.prepare, names), plain])
        stored = {each.id: each for each in await jobs.list_jobs(kinds=[quick.kind])}
    assert [each.created for each in handles] == [True, True, False, False, True, False, True]
    assert [stored[each.id].args["name"] for each in handles] == [*names, "plain"]
    assert handles[3].id == before.id
    new = [stored[handles[nth].id] for nth in (0, 1, 4, 6)]
    assert [each.args["name"] for each in sorted(new, key=lambda each: (each.scheduled_at, each.id))] == [
        "c", "a", "b", "plain"
    ]  # fmt: skip


# What cannot be a key.


def test_a_name_that_does_not_exist_is_refused_where_it_is_said() -> None:
    """With a hint of the nearest: of an argument, of a field, of a method's argument."""
    with pytest.raises(InvalidDefinition, match="did you mean 'user'"):

        @job(kind=f"{HERE}:typo", unique="usr")
        async def typo(user: int) -> None: ...

    with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):

        @attrs.frozen
        class Typo(Later, kind=f"{HERE}:Typo", unique=("tenat",)):
            tenant: str

    with pytest.raises(InvalidDefinition, match="did you mean 'user'"):

        @attrs.frozen
        class MethodTypo(Later, kind=f"{HERE}:MethodTypo"):
            tenant: str

            @job(unique=("tenant", "usr"))
            async def welcome(self, user: int) -> None: ...


async def test_a_name_that_cannot_be_known_before_is_refused_in_the_caller(dsn: str) -> None:
    """What a hand-written `__init__` keeps is known when there is an object; what is async cannot be a key."""

    class Plain(Later, kind=f"{HERE}:Plain", unique="tenat"):
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        async def call(self) -> None: ...

        async def later_key(self) -> None: ...

    async with Jobs(dsn):
        with pytest.raises(InvalidDefinition, match="did you mean 'tenant'"):
            await Plain("acme").later("call")
        with pytest.raises(InvalidDefinition, match="is async"):
            await Plain("acme").later("call", unique="later_key")
        assert (await Plain("acme").later("call", unique="tenant")).created


async def _began(name: str, times: int = 1) -> bool:
    return begun.count(name) >= times


async def _is(handle: object, state: JobState) -> bool:
    return (await handle.status()) is state  # type: ignore[attr-defined]
