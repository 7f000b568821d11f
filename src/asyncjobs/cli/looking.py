"""`list`, `show` and `count`: look at jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from asyncjobs._app import Jobs
from asyncjobs._model.job import Job
from asyncjobs._model.states import JobState
from asyncjobs._store.rates import RateWait, find_rate
from asyncjobs._store.views import Suspects, count_suspects
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, call_of, job_data, when, with_output
from asyncjobs.cli.target import database, find_jobs, split_app, within
from asyncjobs.errors import JobNotFound

HIGHEST_ID = 2**63 - 1


@click.command(
    "list",
    epilog=examples(
        "list myapp.main:jobs",
        "list myapp.main:jobs --state failed --kind ExportStations",
        "ASYNCJOBS_DSN=postgresql://… python -m asyncjobs list --queue mail --json",
    ),
)
@click.argument("app", required=False)
@database
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in JobState]),
    help="Only these states; repeatable.",
)
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only these queues; repeatable.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only these kinds, by any ending; repeatable."
)
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only those with this tag; repeatable: with all."
)
@click.option("--before", type=click.IntRange(min=1), metavar="ID", help="Only older ones, to page on.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many."
)
@with_output
def list_(
    *,
    app: str | None,
    dsn: str | None,
    schema: str | None,
    states: Sequence[str],
    queues: Sequence[str],
    kinds: Sequence[str],
    tags: Sequence[str],
    before: int | None,
    limit: int,
    output: Output,
) -> None:
    """List jobs, newest first."""
    jobs = find_jobs(app, dsn, schema)
    found = within(
        jobs,
        lambda: jobs.list_jobs(
            states=states or None,
            queues=queues or None,
            kinds=kinds or None,
            tags=tags or None,
            before=before and min(before, HIGHEST_ID),
            limit=limit,
        ),
    )
    output.data([job_data(job) for job in found])
    if found:
        output.table(["id", "state", "queue", "attempt", "when", "job", "last error"], map(_row, found))
        if len(found) == limit:
            output.note(f"the newest {limit}; more with --before {found[-1].id}, or --limit")
    else:
        output.note("no jobs")


def _row(job: Job) -> list[str]:
    error = job.errors[-1].error.partition("\n")[0] if job.errors else ""
    short = error if len(error) <= 60 else f"{error[:59]}…"
    return [
        str(job.id),
        job.state,
        job.queue,
        f"{job.attempt}/{job.max_attempts}",
        when(job),
        call_of(job),
        short,
    ]


def split_ids(words: Sequence[str]) -> tuple[str | None, list[int]]:
    """APP where there is one, and ids. Raises click.UsageError."""
    app, rest = split_app(words, sure=True)
    if not rest:
        raise click.UsageError("which job? Give its id")
    for word in rest:
        if not word.isdecimal() or not 1 <= int(word) <= HIGHEST_ID:
            raise click.UsageError(f"{word!r} is not the id of a job")
    return app, [int(word) for word in rest]


@click.command(
    epilog=examples(
        "show myapp.main:jobs 42",
        "show myapp.main:jobs 42 --json",
    ),
)
@click.argument("words", nargs=-1, metavar="[APP] ID")
@database
@with_output
def show(words: Sequence[str], dsn: str | None, schema: str | None, output: Output) -> None:
    """Show a job in full.

    What it calls and with what, how it went, what it returned, or why it failed, with the traceback of each attempt.
    """
    app, ids = split_ids(words)
    if len(ids) > 1:
        raise click.UsageError("one job at a time")
    jobs = find_jobs(app, dsn, schema)
    job, rate = within(jobs, lambda: _find(jobs, ids[0]))
    if job is None:
        raise JobNotFound(ids[0])
    output.data(job_data(job))
    for line in _description(job, rate):
        output.text(line)


async def _find(jobs: Jobs, job_id: int) -> tuple[Job | None, RateWait | None]:
    job = await jobs.get_job(job_id)
    is_blocked = job is not None and job.state is JobState.BLOCKED
    return job, await jobs.ask(find_rate, job_id) if is_blocked else None


def _description(job: Job, rate: RateWait | None) -> list[str]:
    lines = [f"job {job.id}  {call_of(job)}", ""]
    facts: dict[str, object] = {
        "state": f"{job.state}, {when(job)}" + (", to run alone" if _is_suspect(job) else ""),
        "rate": None if rate is None else _waits_for(rate),
        "queue": job.queue,
        "priority": job.priority or None,
        "attempt": f"{job.attempt} of {job.max_attempts}"
        + (f", {job.crashes} crash{'es' if job.crashes > 1 else ''}" if job.crashes else ""),
        "created": job.created_at,
        "scheduled": job.scheduled_at,
        "started": job.started_at,
        "finished": job.finished_at,
        "runner": job.runner,
        "tags": ", ".join(job.tags) or None,
    }
    lines += [f"{name:<10}{value}" for name, value in facts.items() if value is not None]
    for name, value in (("args", job.args), ("meta", job.meta), ("result", job.result)):
        if value is not None:
            lines += [f"{name:<10}{_indented(json.dumps(value, indent=2, ensure_ascii=False))}"]
    if job.result_error is not None:
        lines.append(f"{'result':<10}not kept: {job.result_error}")
    for error in job.errors:
        lines += ["", f"attempt {error.attempt} failed at {error.at}: {error.error}"]
        if error.traceback:
            lines += ["", *(f"    {line}" for line in error.traceback.rstrip().splitlines())]
    return lines


def _waits_for(rate: RateWait) -> str:
    wanted = "one token" if rate.weight == 1 else f"{rate.weight} tokens"
    kind = "" if rate.window == "bucket" else f", a {rate.window} window"
    parts = [
        f"waits for {wanted}: {max(0, rate.tokens_left)} left of {rate.capacity} in {rate.seconds:g} s{kind}",
        f"{rate.before or 'no'} job{'' if rate.before == 1 else 's'} before it",
    ]
    if rate.due is not None:
        parts.append(f"looked at again in {max(0.0, rate.due):.1f} s")
    return "; ".join(parts)


def _is_suspect(job: Job) -> bool:
    """It may be what killed its runner."""
    return job.crashes > 0 and not job.state.is_final


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 10)


async def _count(jobs: Jobs) -> tuple[dict[str, dict[JobState, int]], set[str], Suspects]:
    return await jobs.count_jobs(), await jobs.paused_queues(), await jobs.ask(count_suspects)


@click.command(
    epilog=examples(
        "count myapp.main:jobs",
        "count myapp.main:jobs --json",
    ),
)
@click.argument("app", required=False)
@database
@with_output
def count(app: str | None, dsn: str | None, schema: str | None, output: Output) -> None:
    """Count jobs, by queue and state."""
    jobs = find_jobs(app, dsn, schema)
    counts, paused, suspects = within(jobs, lambda: _count(jobs))
    output.data(counts)
    states = [state for state in JobState if any(state in by_state for by_state in counts.values())]
    if counts:
        rows = [
            [queue, *(str(by_state.get(state, 0)) for state in states)] for queue, by_state in counts.items()
        ]
        output.table(["queue", *states], rows)
    else:
        output.note("no jobs")
    if suspects.waiting:
        output.note(
            f"{suspects.waiting} of them were running when their process died, and run alone, one at a time"
        )
    if suspects.failed:
        output.note(
            f"{suspects.failed} failed because they took their process down, and wait for retry or cancel"
        )
    if paused:
        output.note(f"paused: {', '.join(sorted(paused))}")
