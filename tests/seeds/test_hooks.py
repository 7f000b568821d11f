"""Hooks on the object, middleware around it, and what they may say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from asyncjobs import (
    Cancel,
    Discard,
    Fail,
    Finish,
    InvalidDefinition,
    InvalidOption,
    JobCancelled,
    JobFailed,
    JobNotFound,
    Jobs,
    JobSkipped,
    JobState,
    Later,
    NewJob,
    Retry,
    Skip,
    Snooze,
    current_job,
    current_locale,
    job,
)
from tests.connections import KINDS
from tests.waiting import eventually_async

said: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    said.clear()


@attrs.frozen
class Hooked(Later, kind="seeds.Hooked", max_attempts=1, backoff=0.01):
    """Says what it is told."""

    breaks: tuple[str, ...] = ()

    def _hook(self, name: str, *args: Any) -> None:
        said.append((name, *args))
        if name in self.breaks:
            raise OSError(f"{name} broke")

    async def needed(self) -> bool:
        self._hook("needed")
        return "unneeded" not in self.breaks

    async def on_enqueue(self) -> None:
        self._hook("enqueue")

    async def on_start(self) -> None:
        self._hook("start")

    async def call(self) -> int:
        self._hook("call")
        return 7

    async def on_success(self, result: int) -> None:
        self._hook("success", result)

    async def on_error(self, error: Exception) -> None:
        self._hook("error", str(error))

    async def on_end(self) -> None:
        self._hook("end")

    async def on_failure(self, error: Exception) -> None:
        self._hook("failure", str(error))

    async def on_skip(self, reason: str) -> None:
        self._hook("skip", reason)


@attrs.frozen
class HookedInThread(Later, kind="seeds.HookedInThread", max_attempts=1):
    """The same, sync; some take less than they are passed."""

    breaks: tuple[str, ...] = ()

    def _hook(self, name: str) -> None:
        said.append((name, threading.current_thread().name != threading.main_thread().name))
        if name in self.breaks:
            raise OSError(f"{name} broke")

    def on_start(self) -> None:
        self._hook("start")

    def call(self) -> int:
        self._hook("call")
        return 7

    def on_success(self) -> None:
        self._hook("success")

    def on_error(self) -> None:
        self._hook("error")

    def on_failure(self) -> None:
        self._hook("failure")

    def on_end(self) -> None:
        self._hook("end")


BEGIN = [("enqueue",), ("needed",), ("start",)]


@pytest.mark.seed("D5")
@pytest.mark.parametrize(
    ("breaks", "order", "ends"),
    [
        ((), [("call",), ("success", 7), ("end",)], JobState.COMPLETED),
        (
            ("call",),
            [("call",), ("error", "call broke"), ("end",), ("failure", "call broke")],
            JobState.FAILED,
        ),
        (("start",), [("error", "start broke"), ("end",), ("failure", "start broke")], JobState.FAILED),
        (
            ("success",),
            [("call",), ("success", 7), ("error", "success broke"), ("end",), ("failure", "success broke")],
            JobState.FAILED,
        ),
        (("end",), [("call",), ("success", 7), ("end",)], JobState.COMPLETED),
        (
            ("call", "error", "end", "failure"),
            [("call",), ("error", "call broke"), ("end",), ("failure", "call broke")],
            JobState.FAILED,
        ),
    ],
)
async def test_hooks_are_told_in_order(
    running: Jobs, breaks: tuple[str, ...], order: list[tuple[Any, ...]], ends: JobState
) -> None:
    """D5 hooks order above incl. errors in hooks; hooks may be async; failure hook error never loses the state change.

    Order: before → perform → success → after; on exception: error → after; exception in `before` also calls error; exhausted:
    failure.
    """
    handle = await Hooked(breaks).later("call")
    if ends is JobState.COMPLETED:
        assert await handle.result(timeout=10) == 7
    else:
        with pytest.raises(JobFailed, match=rf"{breaks[0]} broke"):
            await handle.result(timeout=10)
    assert said == BEGIN + order
    assert (await handle.job()).state is ends


@attrs.frozen
class RaisesAnything(Later, kind="seeds.RaisesAnything", max_attempts=1):
    """Its job and its hooks raise what they are told to."""

    what: str
    where: tuple[str, ...]

    def _maybe(self, name: str) -> None:
        said.append(name)
        if name in self.where:
            raise ANYTHING[self.what]

    async def call(self) -> int:
        self._maybe("call")
        return 7

    async def on_error(self, error: BaseException) -> None:
        self._maybe("error")

    async def on_end(self) -> None:
        self._maybe("end")

    async def on_failure(self, error: BaseException) -> None:
        self._maybe("failure")


ANYTHING = {
    each.__name__: each
    for each in (SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError)
}


@pytest.mark.parametrize("what", ANYTHING)
async def test_hooks_may_raise_whatever_there_is(running: Jobs, what: str) -> None:
    """What became of the job stands, and all are told."""
    assert await (await RaisesAnything(what, ("end",)).later("call")).result(timeout=10) == 7
    said.clear()
    with pytest.raises(JobFailed, match=what):
        handle = await RaisesAnything(what, ("call", "error", "end", "failure")).later("call")
        await handle.result(timeout=10)
    assert said == ["call", "error", "end", "failure"]


@pytest.mark.seed("D5")
async def test_hooks_may_be_sync(running: Jobs) -> None:
    """D5 … hooks may be async: or sync, and then stand in the thread of a sync job."""
    assert await (await HookedInThread().later("call")).result(timeout=10) == 7
    assert said == [("start", True), ("call", True), ("success", True), ("end", True)]
    said.clear()
    with pytest.raises(JobFailed):
        await (await HookedInThread(("call",)).later("call")).result(timeout=10)
    assert [name for name, _ in said] == ["start", "call", "error", "end", "failure"]
    assert all(in_thread for _, in_thread in said)


@pytest.mark.seed("T12", "D5")
async def test_what_is_skipped_is_told_so(running: Jobs) -> None:
    """T12 `needed?` … false ⇒ state `skipped`, counted in metrics: and `on_skip` is told why."""
    handle = await Hooked(("unneeded",)).later("call")
    with pytest.raises(JobSkipped):
        await handle.result(timeout=10)
    assert said == [("enqueue",), ("needed",), ("end",), ("skip", "there was nothing left to do")]
    assert (await running.count_jobs())["default"][JobState.SKIPPED] >= 1
    assert (await handle.job()).errors == ()


async def test_an_enqueue_hook_that_raises_stores_nothing(running: Jobs) -> None:
    """It is asked in the caller, before anything is stored."""
    before = await running.list_jobs(limit=1)
    with pytest.raises(OSError, match="enqueue broke"):
        await Hooked(("enqueue",)).later("call")
    assert await running.list_jobs(limit=1) == before


@attrs.frozen
class Urgent(Later, kind="seeds.Urgent", priority=5):
    level: int

    def on_enqueue(self) -> dict[str, Any]:
        return {"priority": -self.level, "tags": ["urgent"], "queue": "seeds-urgent"}

    async def call(self) -> None: ...


async def test_an_enqueue_hook_may_say_options(running: Jobs) -> None:
    """They count more than the class', and less than what is said of the call."""
    one, other = (
        await (await Urgent(3).later("call")).job(),
        await (await Urgent(3).later("call", priority=1)).job(),
    )
    assert (one.priority, one.tags, one.queue) == (-3, ("urgent",), "seeds-urgent")
    assert (other.priority, other.tags) == (1, ("urgent",))


answers: dict[str, Any] = {
    "retry": Retry(0.01),
    "cancel": Cancel("not ours"),
    "fail": Fail("for good"),
    "discard": Discard(),
    "its class": Discard,
    "nothing": None,
    "quiet": False,
}


@attrs.frozen
class Answers(Later, kind="seeds.Answers", max_attempts=3, backoff=0.01):
    """Fails twice."""

    answer: str
    raises: bool = False

    async def call(self) -> int:
        said.append(current_job().attempt)
        if len(said) < 3:
            raise ConnectionError("no answer")
        return len(said)

    async def on_error(self, error: Exception) -> Any:
        assert isinstance(error, ConnectionError)
        if self.raises:
            raise answers[self.answer]
        return answers[self.answer]


@pytest.mark.seed("Q3")
@pytest.mark.parametrize("raises", [False, True], ids=["returned", "raised"])
async def test_on_error_may_say_what_becomes_of_the_job(running: Jobs, raises: bool) -> None:
    """Q3 handle_error override with the same verbs and notifier suppression."""
    handle = await Answers("retry", raises).later("call")
    assert await handle.result(timeout=10) == 3
    assert said == [1, 2, 3]
    assert [error.error for error in (await handle.job()).errors] == ["ConnectionError: no answer"] * 2
    for word, error, words in (
        ("cancel", JobCancelled, "cancelled"),
        ("fail", JobFailed, "for good"),
        ("discard", JobNotFound, "no job"),
        ("its class", JobNotFound, "no job"),
    ):
        said.clear()
        with pytest.raises(error, match=words):
            await (await Answers(word, raises).later("call")).result(timeout=10)
        assert said == [1]


@pytest.mark.seed("Q3")
@pytest.mark.parametrize("answer", ["nothing", "quiet"])
async def test_on_error_may_keep_the_error_out_of_the_log(
    running: Jobs, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    """Q3 handle_error … notifier suppression: False, and the error is not logged; its row has it all the same."""
    handle = await Answers(answer).later("call")
    assert await handle.result(timeout=10) == 3
    assert (f"job {handle.id} (seeds.Answers) failed" in caplog.text) == (answer == "nothing")
    assert len((await handle.job()).errors) == 2


@attrs.frozen
class Patient(Later, kind="seeds.Patient", max_attempts=2):
    wait: str

    async def call(self) -> str:
        if current_job().attempt == 1:
            raise OSError("not yet")
        return "done"

    def reschedule_at(self, now: datetime, attempts: int) -> Any:
        said.append(attempts)
        assert now.tzinfo is not None
        match self.wait:
            case "a day":
                return now + timedelta(days=1)
            case "long ago":
                return now - timedelta(days=1)
            case "naive":
                return datetime(2000, 1, 1)  # noqa: DTZ001 -- the point
        raise OSError("no idea")


@pytest.mark.seed("D8")
async def test_an_object_says_when_it_is_tried_again(running: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    """D8 max_attempts per job; reschedule_at(now, attempts) override."""

    async def waits() -> bool:
        return (await handle.status()) is JobState.RETRYABLE

    handle = await Patient("a day").later("call")
    await eventually_async(waits)
    found = await handle.job()
    assert timedelta(hours=23) < found.scheduled_at - found.created_at < timedelta(hours=25)
    assert await (await Patient("long ago").later("call")).result(timeout=10) == "done"
    for wait in ("naive", "raises"):
        handle = await Patient(wait).later("call")
        await eventually_async(waits)  # in some two seconds, as by default
        assert "reschedule_at" in caplog.text
    assert said == [1, 1, 1, 1]


async def test_a_hook_that_cannot_be_called_is_refused() -> None:
    """Where the class is defined; and a hook is no job."""
    with pytest.raises(InvalidDefinition, match=r"on_error is called by asyncjobs as on_error\(error\)"):

        class TakesMore(Later, kind="seeds.TakesMore"):
            async def on_error(self, error: Exception, more: int) -> None: ...

    with pytest.raises(InvalidDefinition, match=r"on_start is called by asyncjobs as on_start\(\)"):

        @attrs.frozen
        class HasField(Later, kind="seeds.HasField"):
            on_start: int

    with pytest.raises(InvalidDefinition, match="no public method 'on_start'"):
        await Hooked().later("on_start")


@attrs.frozen
class Hangs(Later, kind="seeds.Hangs", max_attempts=1, timeout=0.2):
    where: str
    fails: bool = True

    async def call(self) -> int:
        if self.fails:
            raise OSError("broke")
        return 7

    async def on_end(self) -> None:
        await self._hang("end")

    async def on_failure(self, error: Exception) -> None:
        await self._hang("failure")

    async def _hang(self, where: str) -> None:
        said.append(where)
        if where == self.where:
            await asyncio.Event().wait()


@pytest.mark.seed("D5")
@pytest.mark.parametrize("where", ["end", "failure"])
async def test_a_hook_that_hangs_is_left(running: Jobs, where: str) -> None:
    """D5 … failure hook error never loses the state change: nor does one that takes longer than an attempt may."""
    with pytest.raises(JobFailed, match="broke"):
        await (await Hangs(where).later("call")).result(timeout=10)
    assert said == ["end", "failure"]
    said.clear()
    assert await (await Hangs(where, False).later("call")).result(timeout=10) == 7
    assert said == ["end"]


goes_on, saw = threading.Event(), threading.Event()


@attrs.frozen
class HangsInThread(Later, kind="seeds.HangsInThread", max_attempts=1, timeout=0.05):
    def call(self) -> None:
        raise OSError("broke")

    def on_error(self, error: Exception) -> None:
        said.append("error")
        goes_on.wait(30)

    def on_end(self) -> None:
        said.append("end")

    async def on_failure(self, error: Exception) -> None:
        saw.set()


async def test_a_hook_that_hangs_in_a_thread_is_alone_there(
    running: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    """Its thread nobody can stop: no other is asked beside it, and the job is held until it has ended."""
    goes_on.clear()
    saw.clear()
    handle = await HangsInThread().later("call")
    await eventually_async(lambda: _is(saw.is_set()))
    assert "an earlier hook is over its time, and still runs in its thread" in caplog.text
    assert await handle.status() is JobState.RUNNING
    goes_on.set()
    with pytest.raises(JobFailed, match="broke"):
        await handle.result(timeout=20)
    assert said == ["error"]


@attrs.frozen
class HangsForEver(Hangs, kind="seeds.HangsForEver", timeout=None): ...


@pytest.mark.seed("D5")
async def test_a_hook_that_hangs_at_the_end_loses_nothing(dsn: str) -> None:
    """D5 … never loses the state change: the runner stops meanwhile, and the job has failed."""
    async with Jobs(dsn, shutdown_timeout=0.8).running():
        handle = await HangsForEver("failure").later("call")

        async def told() -> bool:
            return "failure" in said

        await eventually_async(told)
    async with Jobs(dsn) as jobs:
        found = await jobs.handle(handle.id).job()
        assert (found.state, found.attempt, len(found.errors)) == (JobState.FAILED, 1, 1)


SETTLED: dict[str, Any] = {
    "seven": 7,
    "finish": Finish(8),
    "fail": Fail("too late"),
    "skip": Skip("done by hand"),
    "snooze": Snooze(3600),
    "discard": Discard(),
    "a class": Skip,
}


@attrs.frozen
class Settles(Later, kind="seeds.SettlesWithHooks", max_attempts=1):
    """Says what becomes of it in a transaction of its own."""

    word: str

    async def call(self) -> int:
        async with current_job().transaction():
            current_job().result = SETTLED[self.word]
        return 1  # not heard

    async def on_success(self, result: int) -> None:
        said.append(("success", result))

    async def on_error(self, error: Exception) -> None:
        said.append(("error", str(error)))

    async def on_end(self) -> None:
        said.append("end")

    async def on_failure(self, error: Exception) -> None:
        said.append(("failure", str(error)))

    async def on_skip(self, reason: str) -> None:
        said.append(("skip", reason))


@pytest.mark.parametrize("when", ["now", "later"])
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("seven", [("success", 7), "end"]),
        ("finish", [("success", 8), "end"]),
        ("fail", ["end", ("failure", "too late")]),
        ("skip", ["end", ("skip", "done by hand")]),
        ("snooze", ["end"]),
        ("discard", ["end"]),
        ("a class", ["end", ("skip", "there was nothing left to do")]),
    ],
)
async def test_hooks_are_told_what_a_transaction_of_the_jobs_own_made_of_it(
    running: Jobs, word: str, told: list[Any], when: Any
) -> None:
    """Nobody hears of a success of what failed, was skipped, or was put off there."""
    if (word, when) == ("fail", "now"):
        with pytest.raises(Fail):
            await Settles(word).later("call", run=when)
    else:
        await Settles(word).later("call", run=when)
    await eventually_async(lambda: _is(len(said) >= len(told)))
    await running.work_off()
    assert said == told


@attrs.frozen
class SettlesOnSession(Settles, kind="seeds.SettlesOnSession"):
    """… in somebody's transaction, which may be rolled back; and then it may raise."""

    undone: bool
    raises: bool

    async def call(self) -> int:
        async with KINDS["asyncpg"](dsns[-1]) as theirs:
            with suppress(ZeroDivisionError):
                async with theirs.begin():
                    verb = SETTLED[self.word]
                    await current_job().settle(verb, on=theirs.on)
                    if self.undone:
                        raise ZeroDivisionError
        if self.raises:
            raise OSError("later")
        return 1


dsns: list[str] = []
UNDONE = "the transaction that settled the job was rolled back"


@pytest.mark.parametrize(
    ("word", "undone", "raises", "told"),
    [
        ("finish", False, False, [("success", 8), "end"]),
        ("finish", False, True, ["end"]),
        ("finish", True, False, [("error", UNDONE), "end", ("failure", UNDONE)]),
        ("finish", True, True, [("error", "later"), "end", ("failure", "later")]),
        ("fail", False, False, ["end", ("failure", "too late")]),
        ("fail", False, True, ["end", ("failure", "too late")]),
        ("skip", False, False, ["end", ("skip", "done by hand")]),
        ("skip", True, False, [("error", UNDONE), "end", ("failure", UNDONE)]),
        ("a class", False, False, ["end", ("skip", "there was nothing left to do")]),
        ("snooze", False, True, ["end"]),
        ("snooze", True, False, [("error", UNDONE), "end", ("failure", UNDONE)]),
    ],
)
async def test_hooks_are_told_what_the_transaction_of_a_session_made_of_it(
    running: Jobs, word: str, undone: bool, raises: bool, told: list[Any]
) -> None:
    """Whether it was committed is looked up, before anybody hears of a success or a failure."""
    dsns.append(running._own_source._dsn)  # type: ignore[attr-defined]
    await SettlesOnSession(word, undone, raises).later("call")
    await eventually_async(lambda: _is(len(said) >= len(told)))
    await running.work_off()
    assert said == told


async def _is(fact: bool) -> bool:
    return fact


@attrs.frozen
class FindsContext(Later, kind="seeds.FindsContext", max_attempts=1):
    """Its context is found by awaiting."""

    breaks: bool = False

    async def call(self) -> str | None:
        return current_locale.get()

    async def run_context(self) -> dict[str, str]:
        if self.breaks:
            raise OSError("no context")
        return {"locale": "fr"}

    async def on_error(self, error: Exception) -> None:
        said.append(("error", str(error)))

    async def on_failure(self, error: Exception) -> None:
        said.append(("failure", str(error)))


async def test_a_context_may_be_awaited_and_its_error_is_one_of_the_attempt(running: Jobs) -> None:
    """`run_context`, as any hook; and who hears of failures hears of its own."""
    assert await (await FindsContext().later("call")).result(timeout=10) == "fr"
    with pytest.raises(JobFailed, match="no context"):
        await (await FindsContext(True).later("call")).result(timeout=10)
    assert said == [("error", "no context"), ("failure", "no context")]


@attrs.frozen
class NeverAgain(Later, kind="seeds.NeverAgain"):
    async def call(self) -> None:
        raise OSError("broke")

    def reschedule_at(self, now: datetime, attempts: int) -> datetime:
        return datetime.max.replace(tzinfo=UTC)


async def test_the_end_of_time_is_a_century_off(running: Jobs) -> None:
    """`reschedule_at` may say so, and beyond the year 9999 its row would be refused for ever."""
    handle = await NeverAgain().later("call")

    async def waits() -> bool:
        return (await handle.status()) is JobState.RETRYABLE

    await eventually_async(waits)
    found = await handle.job()
    assert found.scheduled_at - found.created_at > timedelta(days=99 * 365)


# Middleware.


@job(kind="seeds.around", max_attempts=1)
async def around(breaks: bool = False) -> int:
    said.append("job")
    if breaks:
        raise OSError("broke")
    return 1


@job(kind="seeds.around_in_thread", max_attempts=1)
def around_in_thread() -> int:
    said.append("job")
    return 1


async def doubles(job: Any, call_next: Callable[[], Awaitable[Any]]) -> Any:
    said.append(("doubles", job.kind, job.attempt))
    try:
        return await call_next() * 2
    finally:
        said.append("doubled")


class Plugin:
    async def enqueue(
        self, jobs: Sequence[NewJob], call_next: Callable[[Sequence[NewJob]], Awaitable[Any]]
    ) -> Any:
        said.append(("enqueue", [job.kind for job in jobs]))
        stored = await call_next([attrs.evolve(job, tags=["stamped"]) for job in jobs])
        said.append("enqueued")
        return stored

    async def run(self, job: Any, call_next: Callable[[], Awaitable[Any]]) -> Any:
        said.append("run")
        return await call_next() + 1

    async def error(self, job: Any, error: BaseException) -> None:
        said.append(("error", str(error)))
        raise RuntimeError("this plugin is broken")

    async def failure(self, job: Any, error: BaseException) -> None:
        said.append(("failure", str(error)))


@pytest.mark.seed("D6")
async def test_middleware_is_around_each_enqueue_and_each_run(dsn: str) -> None:
    """D6 plugin/lifecycle around-hooks for enqueue, execute, loop, perform, invoke, error, failure.

    `execute` is what stands around `jobs.running()`; there is no loop to be around.
    """
    async with Jobs(dsn, middleware=[doubles, Plugin()]).running() as jobs:
        for each, kind in ((around, "seeds.around"), (around_in_thread, "seeds.around_in_thread")):
            said.clear()
            handle = await each.later()
            assert await handle.result(timeout=10) == 4
            assert said == [("enqueue", [kind]), "enqueued", ("doubles", kind, 1), "run", "job", "doubled"]
            assert (await handle.job()).tags == ("stamped",)
        said.clear()
        with pytest.raises(JobFailed, match="broke"):
            await (await around.later(True)).result(timeout=10)
        assert said[-4:] == ["job", "doubled", ("error", "broke"), ("failure", "broke")]
        said.clear()
        assert len(await jobs.enqueue_many([around.prepare(), around.prepare()])) == 2
        assert said[0] == ("enqueue", ["seeds.around"] * 2)


async def test_middleware_is_told_of_failures_before_there_was_anything_to_call(dsn: str) -> None:
    """Of inputs that do not fit, and of a context that cannot be restored."""
    async with Jobs(dsn, middleware=[Plugin()]).running() as jobs:
        async with jobs.connection() as connection:
            job_id = await connection.fetchval(
                """select asyncjobs.enqueue('seeds.around', '{"breaks": "perhaps"}', '{"max_attempts": 1}')"""
            )
        with pytest.raises(JobFailed, match="does not fit"):
            await jobs.handle(job_id).result(timeout=10)
        assert [each[0] for each in said] == ["error", "failure"]
        said.clear()
        handle = await around.set(context={"timezone": "Moon/Apollo"}).later()
        with pytest.raises(JobFailed, match="Moon/Apollo"):
            await handle.result(timeout=10)
        assert [each[0] for each in said[2:]] == ["error", "failure"]


async def test_middleware_must_pass_on_what_was_stored(dsn: str) -> None:
    """One that forgets to return is told so, and the transaction is its caller's."""

    class Forgets:
        async def enqueue(self, jobs: Any, call_next: Any) -> None:
            await call_next(jobs)

    async with Jobs(dsn, middleware=[Forgets()]):
        with pytest.raises(InvalidOption, match="must return what call_next returned"):
            await around.later()


@pytest.mark.parametrize("given", [object(), Plugin, lambda job, call_next: None, "plugin"])
def test_what_is_no_middleware_is_refused(given: Any) -> None:
    """At once, where the Jobs is made."""
    with pytest.raises(InvalidOption, match="middleware"):
        Jobs("postgresql://", middleware=given if isinstance(given, str) else [given])
