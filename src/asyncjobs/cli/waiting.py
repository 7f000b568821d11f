"""What a job waits for, in words: for `show`, `retry` and `enqueue --wait`."""

from __future__ import annotations

from collections.abc import Sequence

from asyncjobs._app import Jobs
from asyncjobs._model.job import Job
from asyncjobs._model.states import JobState
from asyncjobs._model.words import counted
from asyncjobs._store.limits import find_limits
from asyncjobs._store.rates import find_rate
from asyncjobs._store.runners import list_runners
from asyncjobs._store.views import find_keys
from asyncjobs.cli.output import when

SHOWN = 5  #: of jobs or runners, how many are named


async def waits_for(jobs: Jobs, job: Job) -> str | None:
    """What keeps *job* from running, and what helps; None when nothing does: it runs, or is final."""
    match job.state:
        case JobState.SCHEDULED | JobState.RETRYABLE:
            return f"its time, {when(job)}"
        case JobState.BLOCKED:
            return await _its_rate(jobs, job) or await _its_lock(jobs, job)
        case JobState.AVAILABLE:
            return await _its_queue(jobs, job) or await _a_runner(jobs, job)
        case _:
            return None


async def _its_rate(jobs: Jobs, job: Job) -> str | None:
    rate = await jobs.ask(find_rate, job.id)
    if rate is None:
        return None
    kind = "" if rate.window == "bucket" else f", a {rate.window} window"
    left = f"{max(0, rate.tokens_left)} left of {rate.capacity} in {rate.seconds:g} s{kind}"
    parts = [
        f"{counted(rate.weight, 'token')} of its rate: {left}",
        f"{counted(rate.before, 'job')} before it",
    ]
    if rate.due is not None:
        parts.append(f"looked at again in {max(0.0, rate.due):.1f} s")
    return "; ".join(parts)


async def _its_lock(jobs: Jobs, job: Job) -> str | None:
    keys = await jobs.ask(find_keys, job.id)
    if keys is None:  # it is gone
        return None
    held = f"held by {_some('job', keys.holders)}" if keys.holders else "about to be handed over"
    return f"its lock, {held}" + (f", after {counted(keys.ahead, 'other')} in line" if keys.ahead else "")


async def _its_queue(jobs: Jobs, job: Job) -> str | None:
    if job.queue in await jobs.paused_queues():
        return f"queue {job.queue!r}, which is paused: `resume {job.queue}` lets it go on"
    for limit in await jobs.ask(find_limits):
        if limit.queue == job.queue and limit.jobs < 1:
            return f"a place in queue {job.queue!r}, whose limit is reached: see `limits`"
    return None


async def _a_runner(jobs: Jobs, job: Job) -> str:
    alive = [row["name"] for row in await jobs.ask(list_runners) if not row["lease_over"]]
    if not alive:
        return "a runner, and none runs on this database: start your application, or `run`"
    if job.crashes:
        return "its turn to run alone, as it was running when its process died"
    return (
        f"a free slot: {_some('runner', alive)} did not take it yet, being busy, or serving neither queue {job.queue!r} "
        f"nor kind {job.kind!r}"
    )


def _some(noun: str, names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
    return f"{noun}{'s' * (len(names) > 1)} {shown}"
