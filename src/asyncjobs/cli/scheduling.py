"""`schedules`: look at what repeats, and say what should become of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, TypeVar

import attrs
import click

from asyncjobs._app import Jobs
from asyncjobs._model.schedule import Schedule
from asyncjobs._model.ticks import zone
from asyncjobs.cli.exits import Exit, Refused
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, with_output
from asyncjobs.cli.target import database, find_jobs, split_app, within
from asyncjobs.errors import InvalidOption, ScheduleNotFound

R = TypeVar("R")

RUNS = 5  #: how many runs `preview` shows of each


@click.command(
    epilog=examples(
        "schedules myapp.main:jobs",
        "schedules myapp.main:jobs preview nightly",
        "schedules myapp.main:jobs run nightly",
        "schedules myapp.main:jobs pause nightly hourly",
    )
)
@click.argument("words", nargs=-1, metavar="[APP] [list|preview|run|pause|resume|delete] [NAME]...")
@database
@click.option(
    "--count",
    type=click.IntRange(1, 1000),
    default=RUNS,
    show_default=True,
    help="Of preview: how many runs.",
)
@with_output
def schedules(words: Sequence[str], dsn: str | None, schema: str | None, count: int, output: Output) -> None:
    """List schedules, or do something about some.

    preview shows when they tick next, run enqueues the job now, pause and resume hold in every process, delete is for those
    that were created at run time. Times are on the clock of the schedule's own time zone, with its offset from UTC.
    """
    app, rest = split_app(words, sure=True)
    action, *names = rest or ["list"]
    if action not in {"list", "preview", *_ACTIONS}:
        raise click.UsageError(f"{action!r} is none of list, preview, {', '.join(_ACTIONS)}")
    jobs = find_jobs(app, dsn, schema)
    if action == "list":
        _list(jobs, names, output)
    elif not names:
        raise click.UsageError("which schedule?")
    elif action == "preview":
        _preview(jobs, names, count, output)
    else:
        _act(jobs, action, names, output)


async def _found(jobs: Jobs, asked: Awaitable[R]) -> R:
    """What *asked* comes to. Raises Refused for a schedule that there is not, and says which there are."""
    try:
        return await asked
    except ScheduleNotFound as error:
        names = [schedule.name for schedule in await jobs.schedules.list()]
        near = get_close_matches(error.name, names, 1)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        there = (
            f"There are {', '.join(names)}: `python -m asyncjobs schedules` tells of them"
            if names
            else "There are none: those of the code are stored when it runs"
        )
        sentence = f"there is no schedule {error.name!r:.160}{meant} {there}"
        raise Refused(sentence, Exit.NOT_FOUND) from error


def _list(jobs: Jobs, names: Sequence[str], output: Output) -> None:
    async def found() -> list[Schedule]:
        if names:
            return [await _found(jobs, jobs.schedules.get(name)) for name in names]
        return list(await jobs.schedules.list())

    schedules = within(jobs, found)
    output.data([attrs.asdict(schedule) for schedule in schedules])
    if schedules:
        output.table(["name", "when", "next", "last", "job", "declared by"], map(_row, schedules))
    else:
        output.note("no schedules")


def _row(schedule: Schedule) -> list[str]:
    return [
        schedule.name,
        times(schedule),
        "paused" if schedule.paused_at is not None else _moment(schedule.next_tick, schedule.timezone),
        _moment(schedule.last_tick, schedule.timezone),
        f"{schedule.kind}.{schedule.method}" if schedule.method else schedule.kind,
        schedule.owner if schedule.owner is not None else "nobody: created at run time",
    ]


def times(schedule: Schedule) -> str:
    """When it ticks, in words."""
    if schedule.every is not None:
        return f"every {_span(schedule.every)}"
    return f"{schedule.cron} {schedule.timezone}"


def _span(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:g} s"


def _moment(moment: datetime | None, timezone: str) -> str:
    """On the clock of the schedule, where its zone is known here, and with the offset from UTC in any case."""
    if moment is None:
        return ""
    with suppress(InvalidOption):
        moment = moment.astimezone(zone(timezone))
    return moment.isoformat(" ", "seconds")


def _preview(jobs: Jobs, names: Sequence[str], count: int, output: Output) -> None:
    async def found() -> dict[str, list[datetime]]:
        return {name: await _found(jobs, jobs.schedules.preview(name, count)) for name in names}

    ticks = within(jobs, found)
    output.data({name: [tick.isoformat() for tick in each] for name, each in ticks.items()})
    for name, each in ticks.items():
        if len(ticks) > 1:
            output.text(f"{name}:")
        for tick in each:
            output.text(tick.isoformat(" ", "seconds"))  # it is on that clock


async def _run(jobs: Jobs, name: str) -> str:
    return f"job {(await jobs.schedules.run_now(name)).id}"


async def _pause(jobs: Jobs, name: str) -> str:
    await jobs.schedules.pause(name)
    return "paused"


async def _resume(jobs: Jobs, name: str) -> str:
    await jobs.schedules.resume(name)
    return "resumed"


async def _delete(jobs: Jobs, name: str) -> str:
    await jobs.schedules.delete(name)
    return "deleted"


_ACTIONS: Mapping[str, Callable[[Jobs, str], Awaitable[str]]] = {
    "run": _run,
    "pause": _pause,
    "resume": _resume,
    "delete": _delete,
}


def _act(jobs: Jobs, action: str, names: Sequence[str], output: Output) -> None:
    async def do() -> dict[str, Any]:
        return {name: await _found(jobs, _ACTIONS[action](jobs, name)) for name in dict.fromkeys(names)}

    outcomes = within(jobs, do)
    output.data(outcomes)
    for name, outcome in outcomes.items():
        output.text(f"{name}: {outcome}")
