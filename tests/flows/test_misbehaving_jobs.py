"""A job may do what it likes: it ends itself, and nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, NoReturn

import asyncpg
import attrs
import pytest

from asyncjobs import (
    Cancel,
    Constant,
    Handle,
    Job,
    JobCancelled,
    JobFailed,
    Jobs,
    JobState,
    Later,
    ResultNotStored,
    Snooze,
    current_job,
    job,
)
from asyncjobs._engine.attempt import Attempt
from asyncjobs._engine.threads import ThreadCall
from asyncjobs._keeper.vigilance import Vigilance
from tests.engine.running import runner_of
from tests.waiting import eventually_async

S = JobState
AT_ONCE = Constant(wait=timedelta(milliseconds=10))


class Unspeakable(Exception):
    """Its `str()` raises."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Poisonous(BaseException):
    """Not even an Exception, and every look at it raises."""

    def __str__(self) -> str:
        raise SystemExit("do not look")

    def __getattribute__(self, name: str) -> Any:
        if name == "__notes__":
            raise KeyboardInterrupt
        return super().__getattribute__(name)


def nested(depth: int) -> Exception:
    error: Exception = ValueError("the innermost")
    for _ in range(depth):
        error = ExceptionGroup("one more", [error])
    return error


def chained(length: int) -> Exception:
    error: Exception = ValueError("the first")
    for _ in range(length):
        following = ValueError("another")
        following.__cause__ = error
        error = following
    return error


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "an error": (lambda: ValueError("no"), "ValueError: no"),
    "CancelledError": (asyncio.CancelledError, "CancelledError: "),
    "SystemExit": (lambda: SystemExit(3), "SystemExit: 3"),
    "KeyboardInterrupt": (KeyboardInterrupt, "KeyboardInterrupt: "),
    "GeneratorExit": (GeneratorExit, "GeneratorExit: "),
    "StopIteration": (lambda: StopIteration("over"), "RuntimeError: "),
    "StopAsyncIteration": (StopAsyncIteration, "StopAsyncIteration: "),
    "a BaseExceptionGroup": (
        lambda: BaseExceptionGroup("two", [SystemExit(1), asyncio.CancelledError()]),
        "BaseExceptionGroup: two (2 sub-exceptions)",
    ),
    "a TimeoutError of its own": (lambda: TimeoutError("mine"), "TimeoutError: mine"),
    "NUL and surrogates": (lambda: ValueError("a\0b\ud800c"), "ValueError: a\\x00b\\ud800c"),
    "100 kB": (lambda: ValueError("x" * 100_000), "ValueError: xxxx"),
    "no words": (Unspeakable, "Unspeakable: "),
    "poison": (Poisonous, "Poisonous: "),
    "a deep group": (lambda: nested(400), "ExceptionGroup: one more"),
    "a long chain": (lambda: chained(3000), "ValueError: another"),
}


def raise_it(what: str) -> NoReturn:
    make, _ = RAISED[what]
    raise make()


@attrs.frozen
class Raise(Later, kind="misbehaving:Raise", max_attempts=1):
    """Raises what it is told to."""

    what: str

    async def call(self) -> None:
        raise_it(self.what)

    async def call_later(self) -> None:
        await asyncio.sleep(0)
        raise_it(self.what)

    def call_sync(self) -> None:
        raise_it(self.what)


async def cancels_itself() -> str:
    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    return "done"


async def cancels_itself_and_waits() -> str:
    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    await asyncio.sleep(3600)
    return "not reached"


async def leaves_a_child() -> str:
    children.append(asyncio.create_task(asyncio.sleep(3600)))
    return "done"


children: list[asyncio.Task[Any]] = []


@attrs.frozen
class Finish(Later, kind="misbehaving:Finish", max_attempts=1):
    """Does something odd, and ends well or badly."""

    how: str

    async def call(self) -> str:
        function: Callable[[], Awaitable[str]] = globals()[self.how]
        return await function()


@attrs.define
class Bystander:
    """A job that runs all the while, and must not notice."""

    let_go: asyncio.Event = attrs.field(factory=asyncio.Event)
    runs: asyncio.Event = attrs.field(factory=asyncio.Event)


bystander: Bystander


@job(kind="misbehaving:stand_by", max_attempts=1)
async def stand_by() -> str:
    bystander.runs.set()
    await bystander.let_go.wait()
    return "unharmed"


@job(kind="misbehaving:well")
async def well(number: int) -> int:
    return number


@pytest.fixture
async def jobs(dsn: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Jobs]:
    """Jobs that run, with a bystander among them; afterwards it is unharmed, and the runner never fell over."""
    global bystander
    bystander = Bystander()
    async with Jobs(dsn, queues={"default": 3}, shutdown_timeout=2).running() as jobs:
        handle = await stand_by.later()
        await bystander.runs.wait()
        yield jobs
        assert await (await well.later(5)).result(timeout=10) == 5
        bystander.let_go.set()
        assert await handle.result(timeout=10) == "unharmed"
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]
    assert not [record for record in caplog.records if "goes on, and" in record.message]


async def final(handle: Handle[Any]) -> Job:
    """The job, once it is final."""

    async def ended() -> bool:
        return (await handle.status()).is_final

    await eventually_async(ended)
    return await handle.job()


@pytest.mark.failure_mode("F15", "F16", "F90")
@pytest.mark.parametrize("what", RAISED)
async def test_whatever_a_job_raises_fails_that_job(jobs: Jobs, what: str) -> None:
    """Any exception, at once, later or in a thread, is recorded with the job that raised it; the others run on."""
    for handle in [await Raise(what).later(method) for method in ("call", "call_later", "call_sync")]:
        done = await final(handle)
        assert done.state is S.FAILED
        (error,) = done.errors
        assert error.error.startswith(RAISED[what][1]), error.error
        assert error.attempt == 1
        assert len(error.error) <= 4_000
        assert error.traceback is not None
        assert len(error.traceback) <= 20_000
        with pytest.raises(JobFailed):
            await handle.result(timeout=5)


@pytest.mark.failure_mode("F15")
async def test_a_job_that_cancels_its_own_task_and_returns_has_completed(jobs: Jobs) -> None:
    """Cancelling oneself just before the end changes nothing: the work is done."""
    assert await (await Finish("cancels_itself").later("call")).result(timeout=10) == "done"


@pytest.mark.failure_mode("F15")
async def test_a_job_that_cancels_its_own_task_and_waits_fails(jobs: Jobs) -> None:
    """A cancellation nobody asked for is a failure of the job, and is called so."""
    done = await final(await Finish("cancels_itself_and_waits").later("call"))
    assert done.state is S.FAILED
    assert "cancelled its own task" in done.errors[0].error


@pytest.mark.failure_mode("F26")
async def test_a_job_may_leave_tasks_behind(jobs: Jobs) -> None:
    """What a job started and did not await goes on, and does not hold the job up."""
    assert await (await Finish("leaves_a_child").later("call")).result(timeout=10) == "done"
    child = children.pop()
    assert not child.done()
    child.cancel()


who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@job(kind="misbehaving:remember")
async def remember(name: str) -> str:
    before = who.get()
    who.set(name)
    return before


@job(kind="misbehaving:remember_sync")
def remember_sync(name: str) -> str:
    before = who.get()
    who.set(name)
    return before


@pytest.mark.failure_mode("F24")
async def test_what_a_job_leaves_in_its_context_is_gone_with_it(jobs: Jobs) -> None:
    """The next job starts with fresh context variables, in the loop and in threads."""
    for function in (remember, remember_sync):
        for name in ("ann", "bob", "eve"):
            assert await (await function.later(name)).result(timeout=10) == "nobody"
    assert who.get() == "nobody"


# Results


class Evil:
    def __getattribute__(self, name: str) -> Any:
        raise SystemError("do not touch")


def cyclic() -> list[Any]:
    result: list[Any] = []
    result.append(result)
    return result


UNSTORABLE: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a cycle": cyclic,
    "not a number": lambda: float("nan"),
    "NUL": lambda: "a\0b",
    "a surrogate": lambda: "\ud800",
    "too much": lambda: "x" * 2_000_000,
    "another type": lambda: {1, 2},
    "what cannot be touched": Evil,
}


@job(kind="misbehaving:give")
async def give(what: str) -> Any:
    ran.append(what)
    return UNSTORABLE[what]()


@job(kind="misbehaving:promise_an_int")
async def promise_an_int() -> int:
    ran.append("int")
    return "seven"  # type: ignore[return-value]


ran: list[str] = []


@pytest.mark.failure_mode("F91")
@pytest.mark.parametrize("what", [*UNSTORABLE, "int"])
async def test_a_result_that_cannot_be_stored_completes_the_job_and_says_so(jobs: Jobs, what: str) -> None:
    """The work is done, so the job is completed and never run again; who asks for the result is told why there is none."""
    ran.clear()
    handle = await (promise_an_int.later() if what == "int" else give.later(what))
    with pytest.raises(ResultNotStored, match=f"job {handle.id} completed, but"):
        await handle.result(timeout=10)
    assert await handle.status() is S.COMPLETED
    assert ran == [what]


# Timeouts


@attrs.define
class Witness:
    """What jobs tell the test."""

    told: list[str] = attrs.field(factory=list)
    began: asyncio.Event = attrs.field(factory=asyncio.Event)
    thread_may_end: threading.Event = attrs.field(factory=threading.Event)


witness: Witness


@pytest.fixture(autouse=True)
async def new_witness() -> AsyncIterator[None]:
    global witness
    witness = Witness()
    yield
    witness.thread_may_end.set()


@attrs.frozen
class Slow(Later, kind="misbehaving:Slow", timeout=0.1, max_attempts=2, backoff=AT_ONCE):
    """Takes longer than it may, at its first attempt."""

    how: str

    async def call(self) -> str:
        witness.told.append("began")
        if current_job().attempt == 2:
            return "second time lucky"
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            witness.told.append("cancelled")
            match self.how:
                case "swallows":
                    return "swallowed"
                case "translates":
                    raise ConnectionError("lost it") from None
            raise
        raise AssertionError

    def call_sync(self) -> str:
        witness.thread_may_end.wait(10)
        return "took its time"


async def test_an_attempt_over_its_timeout_is_cancelled_recorded_and_retried(jobs: Jobs) -> None:
    """A timeout is a failure like another: TimeoutError with the place where the job hung, and the next attempt."""
    handle = await Slow("plainly").later("call")
    assert await handle.result(timeout=10) == "second time lucky"
    done = await handle.job()
    (error,) = done.errors
    assert error.error == "TimeoutError: the attempt took longer than its timeout of 0.1 s"
    assert error.traceback
    assert "asyncio.sleep(3600)" in error.traceback
    assert witness.told == ["began", "cancelled", "began"]


async def test_an_error_out_of_a_timeout_is_the_error(jobs: Jobs) -> None:
    """A library that turns the cancellation into an error of its own does not hide that there was one."""
    handle = await Slow("translates").later("call")
    assert await handle.result(timeout=10) == "second time lucky"
    assert [error.error for error in (await handle.job()).errors] == ["ConnectionError: lost it"]


@pytest.mark.failure_mode("F17")
async def test_a_job_that_swallows_its_timeout_and_returns_has_completed(jobs: Jobs) -> None:
    """It came to a result, late: nothing is run twice for that."""
    assert await (await Slow("swallows").later("call")).result(timeout=10) == "swallowed"


async def test_the_timeout_of_one_call_travels_with_it(jobs: Jobs) -> None:
    """`later(timeout=…)` is the nearest word, and None takes the class' timeout away."""
    handle = await Slow("plainly").later("call", timeout=timedelta(milliseconds=20), max_attempts=1)
    with pytest.raises(JobFailed, match=r"timeout of 0\.02 s"):
        await handle.result(timeout=10)
    unlimited = await Slow("plainly").later("call", timeout=None)
    await eventually_async(lambda: is_running(unlimited))
    await asyncio.sleep(0.15)
    assert await unlimited.status() is S.RUNNING
    await unlimited.cancel()


@pytest.mark.failure_mode("F18")
async def test_a_thread_over_its_timeout_is_told_on_and_goes_on(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can stop a thread: that it takes too long is logged, and what it returns counts."""
    handle = await Slow("sync").later("call_sync")
    await eventually_async(lambda: is_said("a thread cannot be stopped", caplog))
    witness.thread_may_end.set()
    assert await handle.result(timeout=10) == "took its time"


async def is_said(words: str, caplog: pytest.LogCaptureFixture) -> bool:
    return words in caplog.text


async def is_running(handle: Handle[Any]) -> bool:
    return await handle.status() is S.RUNNING


# Sync jobs


@job(kind="misbehaving:gives_a_coroutine")
def gives_a_coroutine() -> Any:
    place = threading.current_thread()

    async def more() -> str:
        assert threading.current_thread() is not place
        return "awaited"

    return more()


async def test_what_a_sync_job_returns_is_awaited(jobs: Jobs) -> None:
    """A plain function that returns a coroutine is a job all the same."""
    handle = await gives_a_coroutine.later()
    done = await final(handle)
    assert (done.state, done.result) == (S.COMPLETED, "awaited")


@job(kind="misbehaving:where", max_attempts=2, backoff=AT_ONCE)
def where() -> str:
    return threading.current_thread().name


async def test_a_sync_job_for_which_there_is_no_thread_is_tried_again(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at the end of its threads fails the attempt, and the job is not stuck."""
    start = threading.Thread.start
    refused: list[str] = []

    def refuse_once(self: threading.Thread) -> None:
        if self.name.startswith("asyncjobs") and not refused:
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    handle = await where.later()
    assert "where" in await handle.result(timeout=10)
    assert [error.error for error in (await handle.job()).errors] == ["RuntimeError: can't start new thread"]


@attrs.frozen
class Asks(Later, kind="misbehaving:Asks"):
    """A sync job that asks first, where it may block."""

    answer: bool

    def needed(self) -> bool:
        witness.told.append(threading.current_thread().name)
        return self.answer

    def call(self) -> None:
        witness.told.append(threading.current_thread().name)


@pytest.mark.parametrize("answer", [True, False])
async def test_a_sync_job_asks_whether_it_is_needed_off_the_loop(jobs: Jobs, answer: bool) -> None:
    """`needed` of a sync job may block too: it is not asked on the event loop."""
    done = await final(await Asks(answer).later("call"))
    assert done.state is (S.COMPLETED if answer else S.SKIPPED)
    assert len(witness.told) == 1 + answer
    assert all(name.startswith("asyncjobs") for name in witness.told)


async def test_whoever_cancels_the_task_of_a_sync_job_does_not_end_it(jobs: Jobs) -> None:
    """A job is not told to have ended, nor retried, while its thread runs."""
    handle = await Slow("sync").later("call_sync", timeout=None, max_attempts=1)
    await eventually_async(lambda: is_running(handle))
    assert jobs._supervisor is not None
    attempt = jobs._supervisor.runner._attempts.of(handle.id)
    assert attempt is not None
    task = attempt.task
    assert task is not None
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert await handle.status() is S.RUNNING
    witness.thread_may_end.set()
    assert (await final(handle)).state is S.FAILED


# Cancel


@attrs.frozen
class Stoppable(Later, kind="misbehaving:Stoppable", max_attempts=2, backoff=AT_ONCE):
    """Waits to be cancelled, and takes it in one way or another."""

    how: str

    async def call(self) -> str:
        witness.told.append("began")
        witness.began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            witness.told.append("cancelled")
            match self.how:
                case "swallows":
                    return "swallowed"
                case "translates":
                    raise ConnectionError("lost it") from None
                case "snoozes":
                    raise Snooze(0) from None
                case "cleans up":
                    await asyncio.sleep(0.3)
                    witness.told.append("cleaned up")
            raise
        raise AssertionError

    def call_sync(self) -> str:
        asyncio.run_coroutine_threadsafe(self.begin(), loop).result()
        witness.thread_may_end.wait(10)
        if self.how == "raises":
            raise ConnectionError("lost it")
        return "took its time"

    async def begin(self) -> None:
        witness.began.set()


loop: asyncio.AbstractEventLoop

HEARS = Vigilance(look_every=60)
LOOKS = Vigilance(look_every=0.1)


@pytest.fixture(params=["by notification", "by looking", "without LISTEN"])
async def cancelling(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Any]:
    """Jobs that run, and a stranger who cancels: by another connection."""
    global loop
    loop = asyncio.get_running_loop()
    ways: dict[str, dict[str, Any]] = {
        "by notification": {"vigilance": HEARS},
        "by looking": {"vigilance": LOOKS},
        "without LISTEN": {"vigilance": LOOKS, "listen": False},
    }
    stranger = await asyncpg.connect(dsn)

    async def cancel(handle: Handle[Any]) -> None:
        if request.param == "by looking":  # a notification that was lost
            await stranger.execute(
                "update asyncjobs.live_jobs set cancel_requested = true where id = $1", handle.id
            )
            return
        async with Jobs(dsn, listen=False) as other:
            assert await other.handle(handle.id).cancel() == "requested"

    async with Jobs(dsn, shutdown_timeout=2, **ways[request.param]).running() as jobs:
        yield cancel, jobs
    await stranger.close()


async def test_a_running_job_is_cancelled_from_elsewhere(cancelling: Any) -> None:
    """Its task is cancelled once, it may clean up, and it ends as cancelled."""
    cancel, jobs = cancelling
    handle = await Stoppable("cleans up").later("call", jobs=jobs)
    await witness.began.wait()
    await cancel(handle)
    with pytest.raises(JobCancelled):
        await handle.result(timeout=10)
    assert witness.told == ["began", "cancelled", "cleaned up"]
    assert (await handle.job()).errors == ()
    assert await (await well.set(jobs=jobs).later(3)).result(timeout=10) == 3


@pytest.mark.parametrize("how", ["translates", "snoozes"])
async def test_a_cancelled_job_that_raises_something_else_is_cancelled_all_the_same(
    dsn: str, how: str
) -> None:
    """Somebody said stop: what the job raises on the way out does not make it run again."""
    async with Jobs(dsn).running():
        handle = await Stoppable(how).later("call")
        await witness.began.wait()
        assert await handle.cancel() == "requested"
        with pytest.raises(JobCancelled):
            await handle.result(timeout=10)
        assert witness.told == ["began", "cancelled"]
        errors = [error.error for error in (await handle.job()).errors]
        assert errors == (["ConnectionError: lost it"] if how == "translates" else [])


async def test_a_job_that_swallows_its_cancellation_and_returns_has_completed(dsn: str) -> None:
    """It could not be stopped any more; the work is done and counts."""
    async with Jobs(dsn).running():
        handle = await Stoppable("swallows").later("call")
        await witness.began.wait()
        await handle.cancel()
        assert await handle.result(timeout=10) == "swallowed"


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_sync_job_asked_to_stop_goes_on_and_is_not_retried(dsn: str, how: str) -> None:
    """A thread cannot be stopped: what it returns counts; when it raises, nobody wants another attempt."""
    global loop
    loop = asyncio.get_running_loop()
    async with Jobs(dsn).running():
        handle = await Stoppable(how).later("call_sync")
        await witness.began.wait()
        assert await handle.cancel() == "requested"
        assert await handle.status() is S.RUNNING
        witness.thread_may_end.set()
        done = await final(handle)
        assert done.state is (S.COMPLETED if how == "returns" else S.CANCELLED)


async def test_a_sync_job_asked_to_stop_when_it_has_just_returned_has_completed(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread has ended, and its task has yet to take the result: what came in between is too late."""
    global loop
    loop = asyncio.get_running_loop()
    settle = ThreadCall._settle
    async with Jobs(dsn).running() as jobs:

        def settle_and_stop(call: ThreadCall, value: Any, error: BaseException | None) -> None:
            settle(call, value, error)
            for attempt in runner_of(jobs)._attempts:
                attempt.stop("cancel")

        monkeypatch.setattr(ThreadCall, "_settle", settle_and_stop)
        witness.thread_may_end.set()
        handle = await Stoppable("returns").later("call_sync")
        assert (await final(handle)).state is S.COMPLETED


# Backoff


class Broken:
    """A backoff of the user's own."""

    def __init__(self, wait: Callable[[], timedelta]) -> None:
        self.wait = wait

    def delay(self, attempt: int, dice: float) -> timedelta:
        return self.wait()


def no_wait() -> timedelta:
    raise ZeroDivisionError


@job(kind="misbehaving:backs_off_by_raising", backoff=Broken(no_wait))
async def backs_off_by_raising() -> None:
    raise ValueError("no")


@job(kind="misbehaving:backs_off_for_ever", backoff=Broken(lambda: timedelta.max))
async def backs_off_for_ever() -> None:
    raise ValueError("no")


@job(kind="misbehaving:backs_off_to_the_past", backoff=Broken(lambda: timedelta(days=-1)))
async def backs_off_to_the_past() -> None:
    raise ValueError("no")


@pytest.mark.failure_mode("F110")
@pytest.mark.parametrize("function", [backs_off_by_raising, backs_off_for_ever, backs_off_to_the_past])
async def test_a_backoff_that_is_wrong_is_replaced(jobs: Jobs, function: Any) -> None:
    """The user's backoff may raise or talk nonsense: the default is used, and nothing else suffers."""
    handle = await function.later()
    await eventually_async(lambda: has_state(handle, S.RETRYABLE))
    assert [error.error for error in (await handle.job()).errors] == ["ValueError: no"]
    await handle.cancel()


async def has_state(handle: Handle[Any], state: JobState) -> bool:
    return await handle.status() is state


# What a job says of itself


@job(kind="misbehaving:gives_up")
async def gives_up(how: str) -> Any:
    if how == "raised":
        raise Cancel("nothing to do here")
    return Cancel("nothing to do here")


@pytest.mark.parametrize("how", ["raised", "returned"])
async def test_a_job_may_cancel_itself(jobs: Jobs, how: str) -> None:
    """`Cancel` ends the job for good, with its reason."""
    done = await final(await gives_up.later(how))
    assert done.state is S.CANCELLED
    assert [error.error for error in done.errors] == ["Cancel: nothing to do here"]


async def test_a_fault_of_ours_after_a_job_is_told_and_the_job_tried_again(dsn, monkeypatch, caplog):
    """A job whose outcome asyncjobs itself fails to find out does not stay running for ever, nor quietly."""
    came_to = Attempt.came_to
    faults = iter([RuntimeError("a fault")])

    def faulty(self, error):
        for fault in faults:
            raise fault
        return came_to(self, error)

    monkeypatch.setattr(Attempt, "came_to", faulty)
    async with Jobs(dsn).running():
        handle = await fails_once.later()
        assert await handle.result(timeout=20) == "the second time"
    assert [record.levelname for record in caplog.records if "fault of asyncjobs" in record.message] == [
        "CRITICAL"
    ]


failures = iter([ValueError("the first time")])


@job(kind="misbehaving:fails_once")
async def fails_once() -> str:
    for failure in failures:
        raise failure
    return "the second time"
