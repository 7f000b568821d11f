"""`limits` and `locks`: what keeps jobs from running at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs
import click

from asyncjobs._define.registry import todays_name
from asyncjobs._model.limits import QueueLimit, Rate
from asyncjobs._store.locks import Blocked, HeldLock, count_blocked, list_locks
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, with_output
from asyncjobs.cli.target import database, find_jobs, within

OF_QUEUES = "queue:"  #: begins the keys of places in limited queues (0003_locks.sql)


@click.command(epilog=examples("limits myapp.main:jobs", "limits myapp.main:jobs --json"))
@click.argument("app", required=False)
@database
@with_output
def limits(app: str | None, dsn: str | None, schema: str | None, output: Output) -> None:
    """List the queues that are limited, and how many of their jobs run.

    `await jobs.limit(queue, …)` limits them.
    """
    jobs = find_jobs(app, dsn, schema)
    found = within(jobs, jobs.limits)
    output.data({queue: attrs.asdict(limit) for queue, limit in found.items()})
    if found:
        output.table(["queue", "at a time", "running", "rate"], [_limit(*each) for each in found.items()])
    else:
        output.note("no queue is limited")


def _limit(queue: str, limit: QueueLimit) -> list[str]:
    if limit.concurrency is None:
        return [queue, "any", "", _rate(limit.rate)]
    return [queue, str(limit.concurrency), str(limit.running), _rate(limit.rate)]


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "any"
    burst = "" if rate.burst == rate.count else f", at most {rate.burst} at once"
    return f"{rate.count} in {rate.per:g} s{burst}"


@attrs.frozen
class Line:
    """A lock, and who is in front of it."""

    key: str
    kind: str | None  #: of who holds it, else of who waits
    holders: list[int]
    since: datetime | None
    waiting: int


@click.command(epilog=examples("locks myapp.main:jobs", "locks myapp.main:jobs --json"))
@click.argument("app", required=False)
@database
@with_output
def locks(app: str | None, dsn: str | None, schema: str | None, output: Output) -> None:
    """List the locks that are held: by which jobs, since when, and how many wait for each.

    A key is what `show` says of a job, and of the jobs with one key as many hold it as it has slots.
    """
    jobs = find_jobs(app, dsn, schema)

    async def found() -> list[Line]:
        return lines(await jobs.ask(list_locks), await jobs.ask(count_blocked))

    lines_found = within(jobs, found)
    output.data([attrs.asdict(line) for line in lines_found])
    if lines_found:
        output.table(["lock", "held by", "since", "waiting", "kind"], map(_row, lines_found))
    else:
        output.note("no lock is held")


def lines(held: Sequence[HeldLock], blocked: dict[str, Blocked]) -> list[Line]:
    """By key, those most wait for first."""
    by_key: dict[str, list[HeldLock]] = {key: [] for key in blocked}
    for lock in held:
        if not lock.key.startswith(OF_QUEUES):
            by_key.setdefault(lock.key, []).append(lock)
    found = [_line(key, holders, blocked.get(key)) for key, holders in by_key.items()]
    return sorted(found, key=lambda line: (-line.waiting, line.key))


def _line(key: str, held: Sequence[HeldLock], blocked: Blocked | None) -> Line:
    kinds = [lock.kind for lock in held if lock.kind is not None] + ([blocked.kind] if blocked else [])
    return Line(
        key,
        todays_name(kinds[0]) if kinds else None,
        [lock.job for lock in held],
        min((lock.since for lock in held), default=None),
        blocked.jobs if blocked else 0,
    )


def _row(line: Line) -> list[str]:
    return [
        line.key,
        f"job {', '.join(map(str, line.holders))}" if line.holders else "nobody yet",
        line.since.isoformat(" ", "seconds") if line.since else "",
        str(line.waiting),
        line.kind or "",
    ]
