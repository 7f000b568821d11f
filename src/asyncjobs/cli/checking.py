"""`check`: is all well before a deploy; and with --max-age, do jobs get their turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import click

from asyncjobs._app import Jobs
from asyncjobs._define.enqueueing import codec_of
from asyncjobs._define.fitting import check_stored_schedules, check_waiting
from asyncjobs._define.registry import definitions
from asyncjobs._model.queues import place_of
from asyncjobs._model.states import FINAL
from asyncjobs._model.words import counted
from asyncjobs._store.clearing import find_overdue
from asyncjobs.cli.exits import Exit
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, with_output
from asyncjobs.cli.target import database, find_jobs, within
from asyncjobs.cli.words import DurationWord

OWN = "asyncjobs:"  #: kinds that are asyncjobs' own begin with it


async def undeclared_queues(jobs: Jobs, only: Sequence[str] = ()) -> list[str]:
    """Queues of this code, and of jobs that wait, that no part of the application has registered."""
    if not jobs.registry:
        return []
    found: dict[str, list[str]] = {}
    for definition in definitions():
        if definition.kind.startswith(OWN):
            continue
        queue, _ = place_of(definition.options_of(None), jobs.registry)
        found.setdefault(queue, []).append(definition.kind)
    counts = await jobs.count_jobs()
    waiting = {
        queue: sum(count for state, count in states.items() if state not in FINAL)
        for queue, states in counts.items()
    }
    for queue, count in waiting.items():
        if count:
            found.setdefault(queue, []).append(counted(count, "job"))
    return [
        f"queue {queue!r} is registered by no part of the application, and has {', '.join(of)}; "
        f"asyncjobs.queues.register().queue({queue!r}) registers it"
        for queue, of in sorted(found.items())
        if queue not in jobs.registry and queue not in jobs.served_queues and (not only or queue in only)
    ]


async def late_jobs(jobs: Jobs, age: float, only: Sequence[str] = ()) -> list[str]:
    """What has been due for *age* seconds, and nobody runs: in the queues *only*, or in all."""
    names = {name for queue in only for name in jobs.registry.names_of(queue)}
    return [
        f"{counted(late.jobs, 'job')} of queue {late.queue!r} due for more than {age:g} s, the oldest for {late.oldest:.0f} s, "
        f"and run by nobody{': the queue is paused' if late.is_paused else ''}"
        for late in await jobs.ask(find_overdue, age)
        if not only or late.queue in names
    ]


@click.command(
    epilog=examples(
        "check myapp.main:jobs",
        "check myapp.main:jobs --queue billing --json",
        "check myapp.main:jobs --max-age 5m",
    ),
)
@click.argument("app", required=False)
@database
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only these queues; repeatable.")
@click.option(
    "--foreign-kinds",
    is_flag=True,
    help="Kinds that this code does not define are another application's on this database: leave them to it.",
)
@click.option(
    "--max-age",
    type=DurationWord(),
    envvar="ASYNCJOBS_MAX_AGE",
    metavar="SECONDS",
    help="Only this: has any job been due for longer, and nobody runs it? For a monitor. [env ASYNCJOBS_MAX_AGE]",
)
@with_output
def check(
    *,
    app: str | None,
    dsn: str | None,
    schema: str | None,
    queues: Sequence[str],
    foreign_kinds: bool,
    max_age: float | None,
    output: Output,
) -> None:
    """Say what is wrong, and exit with 1 if anything is.

    Before a deploy, with the code that is to be deployed: the schema is there; every job that is not final is of a kind, a
    version and a method that this code knows, and its stored inputs fit; and every queue of this code and of the jobs that wait
    is registered. No job is run, and nothing is written.
    """
    jobs = find_jobs(app, dsn, schema)

    async def do() -> dict[str, Any]:
        if max_age is not None:
            return {"problems": await late_jobs(jobs, max_age, queues)}
        undeclared = await undeclared_queues(jobs, queues)
        if all(definition.kind.startswith(OWN) for definition in definitions()):
            output.note("no code of yours is loaded, so the jobs that wait were not decoded; name your Jobs")
            return {"problems": undeclared}
        report = await check_waiting(jobs, codec_of(jobs), queues=queues or None, foreign_kinds=foreign_kinds)
        schedules = await check_stored_schedules(jobs, codec_of(jobs), foreign_kinds=foreign_kinds)
        return {
            "problems": [str(finding) for finding in report.findings] + schedules + undeclared,
            "checked": report.jobs,
            "findings": [attrs.asdict(finding) for finding in report.findings],
        }

    found = within(jobs, do)
    output.data(found)
    for problem in found["problems"]:
        output.text(problem)
    if found["problems"]:
        raise SystemExit(Exit.FAILED)
    output.text("all is well")
