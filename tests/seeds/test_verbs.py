"""What a job may say of itself: raised, returned, or settled in a transaction of its own. And a source that is gone."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asyncjobs import (
    Cancel,
    Discard,
    Fail,
    Finish,
    JobCancelled,
    JobFailed,
    JobNotFound,
    Jobs,
    JobSkipped,
    JobState,
    Missing,
    Requeue,
    Retry,
    Skip,
    Snooze,
    Verb,
    current_job,
    job,
)

VERBS: dict[str, Verb] = {
    "snooze": Snooze(0.05),
    "requeue": Requeue(0.05),
    "retry": Retry(0.05),
    "retry, said why": Retry(0.05, "the bank sleeps"),
    "fail": Fail("the card is stolen"),
    "cancel": Cancel("nobody wants it"),
    "skip": Skip("done by hand"),
    "missing": Missing("user 3 is gone"),
    "discard": Discard(),
    "finish": Finish(7),
}

seen: list[tuple[int, int]] = []


def answer(word: str, how: str) -> int:
    """Say the verb once; the second time the job is done."""
    me = current_job()
    assert me.id is not None
    seen.append((me.id, me.attempt))
    if sum(job_id == me.id for job_id, _ in seen) > 1:
        return 8
    verb = VERBS[word]
    if how == "raised":
        raise verb
    return verb  # type: ignore[return-value]


@job(kind="seeds.says_in_a_group", max_attempts=3)
async def says_in_a_group(word: str, how: str) -> int:
    async def child() -> None:
        result.append(answer(word, how))

    result: list[int] = []
    async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
        inner.create_task(child())
        outer.create_task(asyncio.sleep(0))
    return result[0]


@job(kind="seeds.says_a_class", max_attempts=1)
async def says_a_class(returned: bool) -> None:
    if returned:
        return Discard  # type: ignore[return-value]
    raise Discard


@pytest.mark.parametrize("how", ["raised", "returned"])
async def test_a_deliberate_retry_is_a_line_in_the_log(
    running: Jobs, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """No error and no stack: nothing went wrong that the job did not expect."""
    seen.clear()
    with caplog.at_level(logging.INFO, "asyncjobs"):
        handle = await says.later("retry, said why", how)
        assert await handle.result(timeout=10) == 8
    (record,) = [record for record in caplog.records if getattr(record, "job_id", None) == handle.id]
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert record.getMessage().endswith("asked for another attempt after 1 of 3: Retry: the bank sleeps")


async def test_the_class_of_a_verb_means_the_verb(running: Jobs) -> None:
    """Returned as well as raised, as Python makes one of it there."""
    for returned in (False, True):
        with pytest.raises(JobNotFound):
            await (await says_a_class.later(returned)).result(timeout=10)


@job(kind="seeds.says", max_attempts=3)
async def says(word: str, how: str) -> int:
    return answer(word, how)


@job(kind="seeds.says_in_a_thread", max_attempts=3)
def says_in_a_thread(word: str, how: str) -> int:
    return answer(word, how)


@pytest.mark.seed("T7", "Q3")
@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize("says", [says, says_in_a_thread, says_in_a_group], ids=["async", "sync", "group"])
@pytest.mark.parametrize("word", VERBS)
async def test_a_verb_means_the_same_raised_and_returned(
    running: Jobs, word: str, how: str, says: object
) -> None:
    """T7 `requeue(delay=1)` and raise-to-requeue. Q3 … the same verbs."""
    seen.clear()
    handle = await says.later(word, how)  # type: ignore[attr-defined]
    match word:
        case "snooze" | "requeue":
            assert await handle.result(timeout=10) == 8
            assert [attempt for _, attempt in seen] == [1, 1]
        case "retry" | "retry, said why":
            assert await handle.result(timeout=10) == 8
            assert [attempt for _, attempt in seen] == [1, 2]
            (error,) = (await handle.job()).errors
            assert ("the bank sleeps" in error.error) == (word != "retry")
        case "fail":
            with pytest.raises(JobFailed, match="the card is stolen"):
                await handle.result(timeout=10)
            assert (await handle.job()).attempt == 1
        case "cancel":
            with pytest.raises(JobCancelled):
                await handle.result(timeout=10)
            assert "nobody wants it" in (await handle.job()).errors[-1].error
        case "skip" | "missing":
            with pytest.raises(JobSkipped, match="done by hand" if word == "skip" else "user 3 is gone"):
                await handle.result(timeout=10)
            assert (await handle.job()).state is JobState.SKIPPED
        case "discard":
            with pytest.raises(JobNotFound):
                await handle.result(timeout=10)
        case "finish":
            assert await handle.result(timeout=10) == 7
            assert len(seen) == 1
