"""Stopping: claim no more, let run for a while, cancel, give back what is unfinished as if it had never begun. In time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import asyncpg
import attrs
import pytest

from asyncjobs import Handle, Job, Jobs, JobState, Later
from asyncjobs._engine import claimer
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.chores import promote_jobs
from asyncjobs._store.claims import claim_jobs
from tests.engine.running import runner_of
from tests.waiting import eventually_async

S = JobState
BUDGET = 1.0  #: seconds to stop in, where a test wants the time for draining used up
WHOLE_BUDGET = 1.6  #: where it wants all of it used up
SLACK = 0.7
ALERT = Vigilance(look_every=0.2, settle=0.4)


@attrs.define
class Witness:
    """What jobs tell the test, and the test them."""

    told: list[str] = attrs.field(factory=list)
    let_go: asyncio.Event = attrs.field(factory=asyncio.Event)
    thread_may_end: threading.Event = attrs.field(factory=threading.Event)
    over: bool = False  #: after the test even those may end that otherwise never do


witness: Witness


@pytest.fixture(autouse=True)
async def new_witness() -> AsyncIterator[None]:
    global witness
    witness = Witness()
    yield
    witness.thread_may_end.set()
    witness.over = True


@attrs.frozen
class Work(Later, kind="shutdown:Work", max_attempts=3):
    """Waits, and takes it in one way or another that it is stopped."""

    how: str

    async def call(self) -> str:
        mine = witness
        witness.told.append("began")
        try:
            await witness.let_go.wait()
        except asyncio.CancelledError:
            witness.told.append("cancelled")
            match self.how:
                case "translates":
                    raise ConnectionError("lost it") from None
                case "cleans up":
                    await asyncio.sleep(0.1)
                    witness.told.append("cleaned up")
                case "returns":
                    return "just in time"
                case "swallows":
                    while not mine.over:
                        try:
                            await asyncio.sleep(3600)
                        except asyncio.CancelledError:
                            witness.told.append("swallowed")
                case "clings":
                    while not mine.over:
                        try:
                            await asyncio.sleep(3600)
                        finally:
                            continue  # noqa: B012 -- it bears even GeneratorExit
            raise
        return "done"

    def call_sync(self) -> str:
        witness.told.append("began")
        witness.thread_may_end.wait(30)
        witness.told.append("ended")
        if self.how == "raises":
            raise ValueError("no")
        return "done"

    async def enqueue_another(self) -> None:
        witness.told.append("began")
        await witness.let_go.wait()
        await Quick(0).later("call")


@attrs.frozen
class Quick(Later, kind="shutdown:Quick"):
    """So quick that it is prefetched; but number 0 waits."""

    number: int

    async def call(self) -> int:
        if self.number == 0:
            witness.told.append("began")
            await witness.let_go.wait()
        return self.number


@attrs.define
class Watch:
    """How long it took to leave."""

    began: float = 0.0
    took: float = 0.0

    async def __aenter__(self) -> Self:
        return self

    def start(self) -> None:
        self.began = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        self.took = time.monotonic() - self.began


async def begun(number: int = 1) -> None:
    async def so_many() -> bool:
        return witness.told.count("began") >= number

    await eventually_async(so_many)


async def look_at(dsn: str, handle: Handle[Any]) -> Job:
    async with Jobs(dsn) as jobs:
        return await jobs.handle(handle.id).job()


async def runners(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval("select count(*) from asyncjobs.runners")
        return count
    finally:
        await connection.close()


def untouched(found: Job) -> bool:
    """As if it had never begun."""
    return (found.state, found.attempt, found.crashes, found.errors, found.runner) == (
        S.AVAILABLE,
        0,
        0,
        (),
        None,
    )


async def test_nothing_is_left_of_a_runner_that_had_nothing_to_do(dsn: str) -> None:
    """Stopping an idle runner takes no time, and leaves neither tasks nor threads nor a row on the list of runners."""
    tasks, threads = asyncio.all_tasks(), threading.enumerate()
    async with Watch() as watch, Jobs(dsn).running() as jobs:
        await Work("well").later("call")
        witness.let_go.set()
        await jobs.work_off()
        assert await runners(dsn) == 1
        watch.start()
    assert watch.took < 1
    assert await runners(dsn) == 0
    assert asyncio.all_tasks() == tasks
    assert threading.enumerate() == threads


async def test_running_and_stopping_at_once(dsn: str) -> None:
    """A lifespan that ends as soon as it began ends well."""
    async with Watch() as watch, Jobs(dsn).running():
        watch.start()
    assert watch.took < 1.5
    assert await runners(dsn) == 0


async def test_a_job_may_end_while_the_runner_stops(dsn: str) -> None:
    """What ends within five eighths of the time is completed; new jobs, its own among them, wait for another runner."""
    async with Watch() as watch, Jobs(dsn, shutdown_timeout=8).running():
        handle = await Work("well").later("enqueue_another")
        await begun()
        asyncio.get_running_loop().call_later(0.2, witness.let_go.set)
        watch.start()
    assert watch.took < 2
    assert (await look_at(dsn, handle)).state is S.COMPLETED
    async with Jobs(dsn) as jobs:
        (another,) = await jobs.list_jobs(kinds=["shutdown:Quick"])
        assert untouched(another)


@pytest.mark.failure_mode("F30")
@pytest.mark.parametrize("how", ["well", "cleans up", "translates"])
async def test_a_job_that_is_cut_short_goes_back_as_if_it_had_never_begun(dsn: str, how: str) -> None:
    """The attempt is given back and no error is recorded, whatever the job makes of its cancellation."""
    async with Watch() as watch, Jobs(dsn, shutdown_timeout=BUDGET).running():
        handle = await Work(how).later("call")
        await begun()
        watch.start()
    assert BUDGET * 5 / 8 - 0.1 < watch.took < BUDGET + SLACK
    assert witness.told[:2] == ["began", "cancelled"]
    assert ("cleaned up" in witness.told) == (how == "cleans up")
    assert untouched(await look_at(dsn, handle))
    assert await runners(dsn) == 0
    async with Jobs(dsn).running() as jobs:
        witness.let_go.set()
        assert await jobs.handle(handle.id).result(timeout=10) == "done"
        assert (await jobs.handle(handle.id).job()).attempt == 1


async def test_a_job_that_returns_when_it_is_cancelled_has_completed(dsn: str) -> None:
    """It came to a result, and nothing is run twice for that."""
    async with Jobs(dsn, shutdown_timeout=BUDGET).running():
        handle = await Work("returns").later("call")
        await begun()
    done = await look_at(dsn, handle)
    assert (done.state, done.result, done.attempt) == (S.COMPLETED, "just in time", 1)


@pytest.mark.failure_mode("F17")
@pytest.mark.parametrize("how", ["swallows", "clings"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_job_that_will_not_end_is_closed_in_time_and_given_back(dsn: str, how: str) -> None:
    """Cancelling does not help, so its coroutine is closed: it does not run any more, and asyncio.run would not end."""
    before = asyncio.all_tasks()
    async with Watch() as watch, Jobs(dsn, shutdown_timeout=WHOLE_BUDGET).running():
        handle = await Work(how).later("call")
        await begun()
        watch.start()
    assert WHOLE_BUDGET * 7 / 8 - 0.1 < watch.took < WHOLE_BUDGET + SLACK
    assert untouched(await look_at(dsn, handle))
    told = list(witness.told)
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == before
    assert witness.told == told


async def test_what_was_claimed_ahead_goes_back_at_once(dsn: str) -> None:
    """Prefetched jobs go back when the runner is told to claim no more, not when the last request has ended."""
    async with Jobs(dsn, slots=1, shutdown_timeout=BUDGET).running() as jobs:
        supervisor = jobs._supervisor
        assert supervisor is not None
        (pool,) = supervisor.runner._pools
        await jobs.enqueue_many([Quick(number).prepare("call") for number in range(1, 30)])
        await jobs.work_off()
        handles = await jobs.enqueue_many([Quick(number).prepare("call") for number in range(60)])
        await begun()
        assert pool.prefetched
        supervisor.runner.quiet()

        async def rest_is_back() -> bool:
            return all([untouched(await handle.job()) for handle in handles[1:]])

        await eventually_async(rest_is_back)
        assert await handles[0].status() is S.RUNNING
        await Quick(7).later("call")
        await asyncio.sleep(0.1)
        assert (await jobs.count_jobs())["default"] == {S.COMPLETED: 29, S.AVAILABLE: 60, S.RUNNING: 1}
    async with Jobs(dsn) as jobs:
        assert (await jobs.count_jobs())["default"] == {S.COMPLETED: 29, S.AVAILABLE: 61}


async def test_a_claim_that_was_under_way_is_given_back(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop while the database answers a claim, the runner lets go of what it got."""
    claim, asked, answer = claim_jobs, asyncio.Event(), asyncio.Event()

    async def slow_claim(*args: Any, **kwargs: Any) -> Any:
        claimed = await claim(*args, **kwargs)
        if claimed:
            asked.set()
            await answer.wait()
        return claimed

    async with Jobs(dsn).running() as jobs:
        await jobs.work_off()
        monkeypatch.setattr("asyncjobs._engine.claimer.claim_jobs", slow_claim)
        handle = await Work("well").later("call")
        await asked.wait()
        assert jobs._supervisor is not None
        jobs._supervisor.runner.quiet()
        answer.set()

        async def is_back() -> bool:
            return untouched(await handle.job())

        await eventually_async(is_back)
    assert witness.told == []


@pytest.mark.failure_mode("F31")
async def test_in_a_hurry_nothing_is_waited_for(dsn: str) -> None:
    """`hurry` cancels what runs at once, before or while the runner stops."""
    for when in (0.0, 0.2):
        async with Watch() as watch, Jobs(dsn, shutdown_timeout=60).running() as jobs:
            handle = await Work("well").later("call")
            await begun()
            asyncio.get_running_loop().call_later(when, jobs.hurry)
            watch.start()
        assert watch.took < when + 2
        assert untouched(await look_at(dsn, handle))
        witness.told.clear()


@pytest.mark.failure_mode("F38")
async def test_whoever_stops_us_may_be_cancelled(dsn: str) -> None:
    """A host that loses its patience with our lifespan gets out quickly, and nothing is lost or burnt."""
    inside: asyncio.Future[Handle[Any]] = asyncio.get_running_loop().create_future()

    async def lifespan() -> None:
        async with Jobs(dsn, shutdown_timeout=60).running():
            inside.set_result(await Work("well").later("call"))
            await begun()

    host = asyncio.create_task(lifespan())
    handle = await inside
    await begun()
    await asyncio.sleep(0.1)
    assert not host.done()
    started = time.monotonic()
    host.cancel()
    with pytest.raises(asyncio.CancelledError):
        await host
    assert time.monotonic() - started < 2
    assert untouched(await look_at(dsn, handle))


async def test_an_error_in_the_application_stops_the_jobs_and_goes_on_its_way(dsn: str) -> None:
    """The runner neither hides nor changes what the application's own code raises."""
    with pytest.raises(ZeroDivisionError):
        async with Jobs(dsn).running():
            raise ZeroDivisionError
    assert await runners(dsn) == 0


# Threads


async def test_a_thread_that_ends_in_time_completes_its_job(dsn: str) -> None:
    """A sync job is waited for like another."""
    async with Jobs(dsn, shutdown_timeout=8).running():
        handle = await Work("well").later("call_sync")
        await begun()
        threading.Timer(0.2, witness.thread_may_end.set).start()
    assert (await look_at(dsn, handle)).result == "done"


async def test_a_thread_that_fails_while_the_runner_stops_has_failed(dsn: str) -> None:
    """Nobody cancelled it, so its error is its own."""
    async with Jobs(dsn, shutdown_timeout=8).running():
        handle = await Work("raises").later("call_sync")
        await begun()
        threading.Timer(0.2, witness.thread_may_end.set).start()
    done = await look_at(dsn, handle)
    assert (done.state, done.attempt, done.errors[0].error) == (S.RETRYABLE, 1, "ValueError: no")


@pytest.mark.failure_mode("F18")
async def test_the_job_of_a_thread_is_nobody_elses_while_it_runs(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The lifespan returns in time and the thread goes on: its job waits until the thread is over, and is then rescued."""
    async with Watch() as watch, Jobs(dsn, shutdown_timeout=BUDGET).running():
        handle = await Work("well").later("call_sync")
        other = await Work("well").later("call")
        await begun(2)
        watch.start()
    assert watch.took < BUDGET + SLACK
    assert f"job {handle.id} (shutdown:Work) goes on in its thread" in caplog.text
    assert (await look_at(dsn, handle)).state is S.RUNNING
    assert untouched(await look_at(dsn, other))
    witness.let_go.set()
    async with Jobs(dsn, vigilance=ALERT).running() as jobs:
        assert await jobs.handle(other.id).result(timeout=10) == "done"
        await asyncio.sleep(1)  # time enough to take it for dead
        assert await jobs.handle(handle.id).status() is S.RUNNING
        assert witness.told == ["began", "began", "cancelled", "began"]
        witness.thread_may_end.set()
        assert await jobs.handle(handle.id).result(timeout=10) == "done"
        assert witness.told[4:] == ["ended", "began", "ended"]
        assert (await jobs.handle(handle.id).job()).attempt == 1


# Signals


class Handled:
    """Somebody's signal handler."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.heard = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, number: int, frame: object) -> None:
        self.numbers.append(number)
        self.loop.call_soon_threadsafe(self.heard.set)


def is_quiet(jobs: Jobs) -> bool:
    assert jobs._supervisor is not None
    return jobs._supervisor.runner._claimer._quiet


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what a test did to the signals, whatever becomes of it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("handlers")
async def test_a_signal_is_heard_and_left_to_its_owner(dsn: str, number: signal.Signals) -> None:
    """Whoever handled it handles it still; the runner claims nothing more; afterwards the handler is where it was."""
    handler = Handled()
    signal.signal(number, handler)
    async with Jobs(dsn).running() as jobs:
        os.kill(os.getpid(), number)
        await handler.heard.wait()
        await asyncio.sleep(0)
        assert handler.numbers == [number]
        assert is_quiet(jobs)
        handle = await Work("well").later("call")
        await asyncio.sleep(0.3)
        assert untouched(await handle.job())
    now: object = signal.getsignal(number)
    assert now is handler
    os.kill(os.getpid(), number)
    assert handler.numbers == [number, number]


@pytest.mark.usefixtures("handlers")
async def test_the_loops_own_signal_handlers_are_heard_and_kept(dsn: str) -> None:
    """`loop.add_signal_handler`, as hypercorn uses it, works on through its wakeup descriptor; removing it works too."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    before = signal.getsignal(signal.SIGTERM)
    async with Jobs(dsn).running() as jobs:
        os.kill(os.getpid(), signal.SIGTERM)
        await heard.wait()
        assert is_quiet(jobs)
    assert signal.getsignal(signal.SIGTERM) is before
    heard.clear()
    os.kill(os.getpid(), signal.SIGTERM)
    await heard.wait()
    assert loop.remove_signal_handler(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
async def test_a_signal_nobody_handles_stays_unhandled(dsn: str) -> None:
    """Where SIGTERM ends the process at once, it still does; where it is ignored, it still is."""
    for default in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGTERM, default)
        async with Jobs(dsn).running():
            assert signal.getsignal(signal.SIGTERM) is default
        assert signal.getsignal(signal.SIGTERM) is default


@pytest.mark.usefixtures("handlers")
async def test_a_handler_that_came_after_ours_is_not_taken_away(dsn: str) -> None:
    """A server that installs its handler late has it for good."""
    late = Handled()
    signal.signal(signal.SIGTERM, Handled())
    async with Jobs(dsn).running():
        signal.signal(signal.SIGTERM, late)
    assert signal.getsignal(signal.SIGTERM) is late


@pytest.mark.failure_mode("F37")
@pytest.mark.usefixtures("handlers")
async def test_outside_the_main_thread_signals_are_let_be(dsn: str) -> None:
    """A loop in another thread, as a test client has, may not touch them, and jobs run there all the same."""
    before = Handled()
    signal.signal(signal.SIGTERM, before)
    seen: list[object] = []

    async def main() -> None:
        witness.let_go = asyncio.Event()
        async with Jobs(dsn).running():
            seen.append(signal.getsignal(signal.SIGTERM))
            handle = await Quick(3).later("call")
            seen.append(await handle.result(timeout=10))

    await asyncio.to_thread(asyncio.run, main())
    assert seen == [before, 3]
    assert signal.getsignal(signal.SIGTERM) is before


# Processes


PROCESS = """
import asyncio, logging, os, sys, threading, time
from asyncjobs import Jobs, job
logging.basicConfig(level="INFO", stream=sys.stderr)

@job(kind="process:hold", max_attempts=1)
async def hold(how: str) -> str:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            if how != "swallows":
                raise

@job(kind="process:hold_sync", max_attempts=1)
def hold_sync() -> str:
    print("in a thread", flush=True)
    time.sleep(3600)
    return "not reached"

async def main(dsn: str, how: str, budget: float) -> None:
    async with Jobs(dsn, shutdown_timeout=budget).running() as jobs:
        handle = await (hold_sync.later() if how == "sync" else hold.later(how))
        while await handle.status() != "running":
            await asyncio.sleep(0.01)
        print(handle.id, flush=True)
        await asyncio.sleep(3600)

try:
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@attrs.define
class Process:
    """A script that runs one job for ever."""

    process: subprocess.Popen[str]
    job_id: int = 0

    @classmethod
    def running(cls, dsn: str, how: str, budget: float = WHOLE_BUDGET) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS, dsn, how, str(budget)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self = cls(process)
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].isdecimal():
            lines.append(process.stdout.readline().strip())
            assert lines[-1], process.communicate()
        self.job_id = int(lines[-1])
        return self

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ended(self, within: float) -> tuple[str, str]:
        return self.process.communicate(timeout=within)


@pytest.fixture
def processes(dsn: str) -> Iterator[Any]:
    started: list[Process] = []

    def start(how: str, budget: float = WHOLE_BUDGET) -> Process:
        started.append(Process.running(dsn, how, budget))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize("how", ["well", "swallows"])
async def test_ctrl_c_gives_the_job_back_and_ends_the_process(dsn: str, processes: Any, how: str) -> None:
    """A script under asyncio.run ends on Ctrl-C within its time, even with a job that swallows every cancellation."""
    process = processes(how)
    process.interrupt()
    started = time.monotonic()
    out, err = await asyncio.to_thread(process.ended, within=20)
    assert time.monotonic() - started < WHOLE_BUDGET + 2
    assert out.splitlines() == ["cancelled", "interrupted"], err
    assert "Traceback" not in err
    async with Jobs(dsn) as jobs:
        assert untouched(await jobs.handle(process.job_id).job())
    assert await runners(dsn) == 0


@pytest.mark.failure_mode("F31")
async def test_a_second_ctrl_c_is_in_a_hurry_and_burns_nothing(dsn: str, processes: Any) -> None:
    """asyncio.run cancels every task there is, ours included; the job goes back all the same."""
    process = processes("well", 60)
    process.interrupt()
    await asyncio.sleep(0.3)
    process.interrupt()
    out, err = await asyncio.to_thread(process.ended, within=20)
    assert out.splitlines() == ["cancelled", "interrupted"], err
    async with Jobs(dsn) as jobs:
        assert untouched(await jobs.handle(process.job_id).job()), err


@pytest.mark.failure_mode("F18")
async def test_the_process_does_not_wait_for_a_thread_and_its_job_is_rescued(
    dsn: str, processes: Any
) -> None:
    """A sync job is not given back while its thread may run; when the process is gone another runner takes it, unburnt and
    unsuspected: the process was told to end."""
    process = processes("sync")
    process.interrupt()
    started = time.monotonic()
    _, err = await asyncio.to_thread(process.ended, within=20)
    assert time.monotonic() - started < WHOLE_BUDGET + 2
    assert "goes on in its thread" in err
    async with Jobs(dsn, vigilance=ALERT, queues={"none": 1}).running() as jobs:
        handle = jobs.handle(process.job_id)
        assert await handle.status() is S.RUNNING

        async def is_back() -> bool:
            return await handle.status() is S.AVAILABLE

        await eventually_async(is_back)
        back = await handle.job()
        assert (back.attempt, back.crashes) == (0, 0)


@attrs.frozen
class Swift(Later, kind="test_shutdown:Swift"):
    async def call(self) -> None: ...


async def test_what_a_claim_under_way_brings_is_given_back(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is waited for: held by a runner that is gone, a job would be nobody's until somebody rescues it."""
    claimed = asyncio.Event()

    async def late(*args: Any, **given: Any) -> Any:
        jobs = await claim_jobs(*args, **given)
        if jobs:
            claimed.set()
            await asyncio.sleep(0.1)
        return jobs

    monkeypatch.setattr(claimer, "claim_jobs", late)
    async with Jobs(dsn).running():
        handle = await Swift().later("call")
        await claimed.wait()
    async with Jobs(dsn) as jobs:
        found = await jobs.handle(handle.id).job()
    assert (found.state, found.attempt, found.crashes, found.runner) == (S.AVAILABLE, 0, 0, None)


async def test_nothing_is_claimed_in_a_turn_that_began_before_it_stopped(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claimer was told in the middle of it: it had seen that a job is due."""
    promoted = asyncio.Event()
    sent_late: list[Any] = []

    async def late(*args: Any, **given: Any) -> Any:
        lanes = await promote_jobs(*args, **given)
        if lanes:
            promoted.set()
            await eventually_async(told)
        return lanes

    async def told() -> bool:
        return runner._claimer._quiet

    async def watched(*args: Any, **given: Any) -> Any:
        if runner._claimer._quiet:
            sent_late.append(args)
        return await claim_jobs(*args, **given)

    async with Jobs(dsn).running() as jobs:
        runner = runner_of(jobs)
        monkeypatch.setattr(claimer, "promote_jobs", late)
        monkeypatch.setattr(claimer, "claim_jobs", watched)
        handle = await Swift().later("call", delay=0.2)
        await promoted.wait()
    assert sent_late == []
    async with Jobs(dsn) as jobs:
        found = await jobs.handle(handle.id).job()
    assert (found.state, found.attempt, found.runner) == (S.AVAILABLE, 0, None)
