"""`retry`, `cancel`, `pause` and `resume`: say what should become of jobs and queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import click

from asyncjobs._app import Jobs
from asyncjobs._model.job import Job
from asyncjobs._model.options import check_name
from asyncjobs._model.states import JobState
from asyncjobs._store.views import retry_job
from asyncjobs.cli.choosing import or_cancel_chosen, or_retry_chosen
from asyncjobs.cli.exits import Exit
from asyncjobs.cli.helping import examples
from asyncjobs.cli.looking import split_ids
from asyncjobs.cli.output import Output, with_output
from asyncjobs.cli.target import database, find_jobs, split_app, within
from asyncjobs.cli.waiting import waits_for

Outcome = Literal["retried", "cancelled", "requested", "refused", "not found"]


@click.command(
    epilog=examples(
        "retry myapp.main:jobs 42",
        "retry myapp.main:jobs 42 43 44",
        "retry myapp.main:jobs 42 --completed",
    ),
)
@or_retry_chosen
@click.argument("words", nargs=-1, metavar="[APP] ID...")
@database
@click.option("--completed", is_flag=True, help="Also jobs that completed: what they did is done once more.")
@with_output
def retry(
    words: Sequence[str], dsn: str | None, schema: str | None, *, completed: bool, output: Output
) -> None:
    """Run jobs again, or at once.

    One that is failed, cancelled or skipped runs again, with all its attempts; one that waits for its time runs now. A job that
    runs, or is available already, is refused, and so is a completed one without --completed.
    """

    async def again(jobs: Jobs, job_id: int) -> bool:
        return await jobs.ask(retry_job, job_id, completed=completed) is not None

    async def one(jobs: Jobs, job_id: int) -> tuple[Outcome, str]:
        if await again(jobs, job_id):
            return "retried", "runs again"
        job = await jobs.get_job(job_id)
        if job is None:
            return "not found", "is not found"
        if job.state is JobState.COMPLETED and not completed:
            return "refused", "is completed: what it did would be done once more; --completed runs it again"
        if job.state.is_final and await again(jobs, job_id):  # it ended just now
            return "retried", "runs again"
        return "refused", await why_not_again(jobs, job)

    _each(words, dsn, schema, output, one)


@click.command(
    epilog=examples(
        "cancel myapp.main:jobs 42",
        "cancel myapp.main:jobs 42 43 --json",
        "cancel myapp.main:jobs --kind ExportStations --state retryable",
    ),
)
@or_cancel_chosen
@click.argument("words", nargs=-1, metavar="[APP] ID...")
@database
@with_output
def cancel(words: Sequence[str], dsn: str | None, schema: str | None, output: Output) -> None:
    """Cancel jobs.

    One that waits is cancelled at once; the runner of one that runs is asked to stop it. A job that is final is refused.
    """

    async def one(jobs: Jobs, job_id: int) -> tuple[Outcome, str]:
        answer = await jobs.cancel_job(job_id)
        if answer == "cancelled":
            return "cancelled", "is cancelled"
        if answer == "requested":
            return "requested", "runs, and its runner is asked to stop it"
        return await _why_not(jobs, job_id)

    _each(words, dsn, schema, output, one)


async def why_not_again(jobs: Jobs, job: Job) -> str:
    """Why `retry` leaves *job* as it is."""
    if job.state is JobState.RUNNING:
        return "runs already"
    if job.state.is_final:
        return f"is {job.state}, and cannot run again: its inputs were not kept"
    words = await waits_for(jobs, job)
    return f"is {job.state} already" + (f": it waits for {words}" if words else "")


async def _why_not(jobs: Jobs, job_id: int) -> tuple[Outcome, str]:
    job = await jobs.get_job(job_id)
    if job is None:
        return "not found", "is not found"
    return "refused", f"is {job.state}: left as it is"


def _each(
    words: Sequence[str],
    dsn: str | None,
    schema: str | None,
    output: Output,
    one: Callable[[Jobs, int], Awaitable[tuple[Outcome, str]]],
) -> None:
    """Do it to each job, say what came of it, and exit with 3 when one was not found, with 1 when one was refused."""
    app, ids = split_ids(words)
    jobs = find_jobs(app, dsn, schema)

    async def do() -> list[tuple[int, Outcome, str]]:
        return [(job_id, *await one(jobs, job_id)) for job_id in dict.fromkeys(ids)]

    answers = within(jobs, do)
    output.data([{"id": job_id, "outcome": outcome} for job_id, outcome, _ in answers])
    for job_id, outcome, words_for_it in answers:
        say = output.note if outcome in ("refused", "not found") else output.text
        say(f"job {job_id} {words_for_it}")
    outcomes = {outcome for _, outcome, _ in answers}
    if "not found" in outcomes:
        raise SystemExit(Exit.NOT_FOUND)
    if "refused" in outcomes:
        raise SystemExit(Exit.FAILED)


@click.command(
    epilog=examples(
        "pause myapp.main:jobs exports mail",
    ),
)
@click.argument("words", nargs=-1, metavar="[APP] QUEUE...")
@database
@with_output
def pause(words: Sequence[str], dsn: str | None, schema: str | None, output: Output) -> None:
    """Claim no more jobs of these queues.

    Until they are resumed, in no process. What runs may finish.
    """
    _each_queue(words, dsn, schema, output, _pause, done="paused")


async def _pause(jobs: Jobs, queue: str) -> bool:
    await jobs.pause(queue)
    return True


@click.command(
    epilog=examples(
        "resume myapp.main:jobs exports",
    ),
)
@click.argument("words", nargs=-1, metavar="[APP] QUEUE...")
@database
@with_output
def resume(words: Sequence[str], dsn: str | None, schema: str | None, output: Output) -> None:
    """Claim jobs of these queues again."""
    _each_queue(words, dsn, schema, output, Jobs.resume, done="resumed")


def _each_queue(
    words: Sequence[str],
    dsn: str | None,
    schema: str | None,
    output: Output,
    one: Callable[[Jobs, str], Awaitable[bool]],
    *,
    done: str,
) -> None:
    app, queues = split_app(words, sure=False) if not dsn else (None, words)
    if not queues:
        raise click.UsageError("which queue?")
    for queue in queues:
        check_name(queue, "queue")
    jobs = find_jobs(app, dsn, schema)

    async def do() -> dict[str, bool]:
        return {queue: await one(jobs, queue) for queue in dict.fromkeys(queues)}

    answers = within(jobs, do)
    were = [queue for queue, was in answers.items() if was]
    output.data({done: were})
    if were:
        output.text(f"{done} {', '.join(were)}")
    for queue in answers.keys() - set(were):
        output.note(f"queue {queue!r} was not paused")
