"""What becomes of jobs that fail, take too long, or are done: by kind, by call, by Jobs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from asyncjobs import (
    Constant,
    Exponential,
    InvalidOption,
    JobFailed,
    JobNotFound,
    Jobs,
    JobState,
    current_job,
    job,
)
from tests.kinds import forgotten
from tests.waiting import eventually_async

ran: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


# What is kept.


@job(kind="seeds.keeps_nothing", keep="nothing", keep_failed="nothing", max_attempts=1)
async def keeps_nothing(secret: str, fails: bool = False) -> str:
    ran.append(secret)
    if fails:
        raise OSError("broke")
    return secret


@job(kind="seeds.keeps_no_args", keep="without args", keep_failed="without args", max_attempts=1)
async def keeps_no_args(secret: str, fails: bool = False) -> int:
    if fails:
        raise OSError("broke")
    if secret == "transaction":
        async with current_job().transaction():
            current_job().result = 2
    return 1


@pytest.mark.seed("D8")
@pytest.mark.parametrize("fails", [False, True])
async def test_a_kind_may_keep_nothing(running: Jobs, fails: bool) -> None:
    """D8 exhausted ⇒ failed_at set & kept (default keep; `destroy_failed=True` available).

    Spelled `keep_failed="nothing"`; who awaits the job is told at once that it is gone.
    """
    handle = await keeps_nothing.later("s3cret", fails)
    with pytest.raises(JobNotFound):
        await handle.result(timeout=10)
    assert ran == ["s3cret"]

    async def idle() -> bool:
        return await running.get_job(handle.id) is None

    await eventually_async(idle)


@pytest.mark.seed("D8")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("secret", ["s3cret", "transaction"])
async def test_a_kind_may_keep_no_inputs(running: Jobs, fails: bool, secret: str) -> None:
    """D8 … kept: the row without its inputs, which cannot run again and is not retried."""
    handle = await keeps_no_args.later(secret, fails)
    if fails:
        with pytest.raises(JobFailed):
            await handle.result(timeout=10)
    else:
        assert await handle.result(timeout=10) == (2 if secret == "transaction" else 1)
    assert (await handle.job()).args == {}
    assert not await running.retry(handle.id)


@pytest.mark.seed("D8")
async def test_failed_jobs_are_kept(running: Jobs) -> None:
    """D8 … default keep: with inputs and errors, to be looked at and run again."""

    with forgotten():

        @job(kind="seeds.fails_once", max_attempts=1)
        async def fails_once(secret: str) -> str:
            ran.append(secret)
            if len(ran) == 1:
                raise OSError("broke")
            return secret

        handle = await fails_once.later("x")
        with pytest.raises(JobFailed):
            await handle.result(timeout=10)
        failed = await handle.job()
        assert (failed.state, failed.args, len(failed.errors)) == (JobState.FAILED, {"secret": "x"}, 1)
        assert failed.finished_at is not None
        assert await running.retry(handle.id)
        assert await handle.result(timeout=10) == "x"


def test_what_is_kept_is_one_of_three() -> None:
    """And said where the kind is defined."""
    with pytest.raises(
        InvalidOption,
        match="keep='all' is nothing to keep of a job; say one of 'row', 'without args', 'nothing'",
    ):
        job(keep="all")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="has no option 'keep'"):
        keeps_nothing.set(keep="row")  # type: ignore[call-arg]


# Attempts, and the wait between them.


@job(kind="seeds.waits_between", max_attempts=4)
async def waits_between() -> None:
    raise OSError("not yet")


@pytest.mark.seed("Q4", "D8")
@pytest.mark.parametrize(
    ("backoff", "wait"),
    [
        (600, 600),
        (timedelta(minutes=10), 600),
        (lambda attempt: attempt**4 + 3, 4),
        (lambda attempt: timedelta(seconds=60 * attempt), 60),
        (Constant(50, jitter=0), 50),
    ],
)
async def test_a_backoff_in_its_forms(running: Jobs, backoff: Any, wait: float) -> None:
    """Q4 retry_interval number/callable; maximum_retry_count ⇒ expired."""
    with forgotten():

        @job(kind="seeds.backs_off", backoff=backoff)
        async def backs_off() -> None:
            raise OSError("not yet")

        handle = await backs_off.later()

        async def waits() -> Any:
            found = await handle.job()
            return found if found.state is JobState.RETRYABLE else None

        found = await eventually_async(waits)
        started = found.errors[-1].at
        assert abs((found.scheduled_at - started).total_seconds() - wait) < 10


def _leaves(attempt: int) -> float:
    raise SystemExit(attempt)


@pytest.mark.parametrize("backoff", [_leaves, lambda attempt: float("nan"), lambda attempt: -attempt])
async def test_a_backoff_that_is_wrong_costs_nobody_the_job(
    running: Jobs, backoff: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises or says: the default stands in."""
    with forgotten():

        @job(kind="seeds.backs_off_wrongly", backoff=backoff, max_attempts=2)
        async def backs_off_wrongly() -> None:
            raise OSError("not yet")

        handle = await backs_off_wrongly.later()

        async def waits() -> bool:
            return (await handle.status()) is JobState.RETRYABLE

        await eventually_async(waits)
        assert "the backoff of seeds.backs_off_wrongly is wrong; the default is used" in caplog.text


@pytest.mark.seed("Q4", "D8", "T9")
async def test_attempts_are_counted_out(running: Jobs) -> None:
    """Q4 … maximum_retry_count ⇒ expired. D8 max_attempts per job. T9 … `retry=False`: that is `max_attempts=1`."""
    for attempts in (1, 3):
        handle = await waits_between.set(max_attempts=attempts, backoff=0.01).later()
        with pytest.raises(JobFailed, match=f"failed at attempt {attempts}"):
            await handle.result(timeout=10)
        assert len((await handle.job()).errors) == attempts


@pytest.mark.seed("T9")
async def test_a_retry_stays_in_its_queue(running: Jobs) -> None:
    """T9 retry stays in the queue it was actually enqueued to; `retry=False`."""
    handle = await waits_between.set(queue="seeds-elsewhere", max_attempts=2, backoff=0.01).later()
    with pytest.raises(JobFailed):
        await handle.result(timeout=10)
    found = await handle.job()
    assert (found.queue, found.attempt) == ("seeds-elsewhere", 2)


def test_a_function_is_no_backoff_of_one_call() -> None:
    """Code cannot be stored with a job."""
    with pytest.raises(InvalidOption, match="is code and cannot be stored with one job"):
        waits_between.set(backoff=lambda attempt: attempt)
    with pytest.raises(InvalidOption, match="is no backoff"):
        waits_between.set(backoff=Exponential)  # type: ignore[arg-type]


# Time.


@job(kind="seeds.too_long", max_attempts=2, backoff=0.01, timeout=3600)
async def too_long() -> str:
    ran.append(current_job().attempt)
    try:
        if len(ran) == 1:
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        ran.append("cancelled")
        raise
    return "done"


@job(kind="seeds.overtime", timeout=3600, overtime=True, max_attempts=1)
async def overtime() -> str:
    await asyncio.sleep(0.3)
    return "done"


@pytest.mark.seed("D9")
async def test_a_timeout_cancels_records_and_retries(dsn: str) -> None:
    """D9 max_run_time cancels the coroutine, records the named error, retries; per-job only lowers unless explicitly allowed."""
    async with Jobs(dsn, timeout=0.15).running():
        handle = await too_long.later()  # its own hour is more than is allowed here
        assert await handle.result(timeout=10) == "done"
        assert ran == [1, "cancelled", 2]
        (error,) = (await handle.job()).errors
        assert error.error == "TimeoutError: the attempt took longer than its timeout of 0.15 s"
        ran.clear()
        lower = await too_long.set(timeout=0.05).later()
        assert await lower.result(timeout=10) == "done"
        assert "timeout of 0.05 s" in (await lower.job()).errors[0].error
        assert await (await overtime.later()).result(timeout=10) == "done"


# Errors, inputs.


@job(kind="seeds.says_much", max_attempts=1)
async def says_much() -> None:
    def deep(n: int) -> None:
        if n == 0:
            raise OSError("x" * 100_000)
        deep(n - 1)

    deep(50)


@pytest.mark.seed("Q5")
@pytest.mark.parametrize(
    ("given", "most"), [({}, 8_000), ({"traceback_limit": 500}, 500), ({"traceback_limit": 0}, 0)]
)
async def test_what_is_kept_of_an_error_is_bounded(dsn: str, given: Any, most: int) -> None:
    """Q5 error_count, last_error_message ≤500, backtrace ≤10k (we: configurable caps; never unbounded)."""
    async with Jobs(dsn, **given).running():
        handle = await says_much.later()
        with pytest.raises(JobFailed):
            await handle.result(timeout=10)
        (error,) = (await handle.job()).errors
        assert len(error.error) == 2_000
        assert len(error.traceback or "") == most


@job(kind="seeds.changes_its_inputs", max_attempts=2, backoff=0.01)
async def changes_its_inputs(names: list[str], more: dict[str, list[int]]) -> list[Any]:
    given = [list(names), {key: list(value) for key, value in more.items()}]
    names.append("changed")
    more["a"].append(2)
    current_job().args["names"].append("changed")
    assert current_job().args == {"names": ["a"], "more": {"a": [1]}}
    if current_job().attempt == 1:
        raise OSError("again")
    return given


@pytest.mark.seed("Q6")
async def test_inputs_do_not_change(running: Jobs) -> None:
    """Q6 immutable args: an attempt may do with its own what it likes; the next one, and everybody else, has them as given."""
    handle = await changes_its_inputs.later(["a"], {"a": [1]})
    assert await handle.result(timeout=10) == [["a"], {"a": [1]}]
    assert (await handle.job()).args == {"names": ["a"], "more": {"a": [1]}}


@pytest.mark.seed("D10")
async def test_unknown_here_is_not_broken(running: Jobs) -> None:
    """D10 undeserialisable / unknown class ⇒ distinguish *unknown here* (do not claim) from *broken payload* (fail at once)."""
    async with running.connection() as connection:
        unknown, broken = [
            await connection.fetchval(
                "insert into asyncjobs.live_jobs (queue, kind, args, max_attempts) values ('default', $1, $2, 25) returning id",
                kind,
                args,
            )
            for kind, args in (("nobody:knows", "{}"), ("seeds.changes_its_inputs", '{"names": 7}'))
        ]
    with pytest.raises(JobFailed, match="UndecodableInput"):
        await running.handle(broken).result(timeout=10)
    failed = await running.get_job(broken)
    waits = await running.get_job(unknown)
    assert failed is not None
    assert waits is not None
    assert (failed.attempt, failed.max_attempts) == (1, 25)
    assert (waits.state, waits.attempt) == (JobState.AVAILABLE, 0)


@job(kind="seeds.goes_on")
async def goes_on() -> str:
    ran.append("began")
    try:
        await asyncio.sleep(0.2 if len(ran) < 2 else 60)
    except asyncio.CancelledError:
        ran.append("stopped")
        raise
    ran.append("ended")
    return "done"


@pytest.mark.seed("D14")
@pytest.mark.parametrize("policy", ["finish", "raise"])
async def test_who_stops_lets_jobs_finish_or_stops_them(dsn: str, policy: str) -> None:
    """D14 TERM/INT policies (finish current; raise): within `shutdown_timeout` they finish; then they are cancelled where they
    wait, and run again elsewhere, the attempt unburnt. (What a signal does is to end `running()`.)
    """
    if policy == "raise":
        ran.extend(["", ""])  # it takes a minute then
    jobs = Jobs(dsn, shutdown_timeout=20 if policy == "finish" else 0.4)
    async with jobs.running():
        handle = await goes_on.later()

        async def began() -> bool:
            return "began" in ran

        await eventually_async(began)
    assert ran[-1] == ("ended" if policy == "finish" else "stopped")
    async with Jobs(dsn) as later:
        found = await later.handle(handle.id).job()
        assert found.state is (JobState.COMPLETED if policy == "finish" else JobState.AVAILABLE)
        assert found.attempt == (1 if policy == "finish" else 0)
