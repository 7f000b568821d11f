"""Is it enqueued? Asked of Postgres, in the transaction of the test or outside of any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack

from asyncjobs._app import Jobs
from asyncjobs._define.faithful import shorten
from asyncjobs._enqueue.ambient import which
from asyncjobs._model.durations import Duration
from asyncjobs._model.job import Job
from asyncjobs._model.states import JobState
from asyncjobs._store import views
from asyncjobs._store.foreign import is_sync, join
from asyncjobs._store.session import Session
from asyncjobs._store.statements import DEFAULT_SCHEMA
from asyncjobs._store.synchronous import at_once, join_sync
from asyncjobs.errors import WhichJobs
from asyncjobs.testing.wanted import Wanted, inputs_of, wanted, when_of

SHOWN = 10  #: jobs in a message

_ALL = 100_000

__tracebackhide__ = True  # pytest shows where the test asserts, not where this does


class Described(TypedDict, total=False):
    """A job, as far as it matters to a test."""

    args: (
        Mapping[str, Any] | None
    )  #: its inputs; those named here, nested ones too. A function as a value is asked
    queue: str | None
    priority: int | None
    delay: Duration | None  #: how long it waits, from when it was enqueued
    at: datetime | None  #: when it is due
    within: Duration | None  #: how far `delay` and `at` may be off; a second
    tags: Sequence[str] | None  #: at least these
    meta: Mapping[str, Any] | None  #: at least this
    states: Iterable[JobState | str] | None  #: those that are not final, unless said


async def assert_enqueued(
    what: Any = None,
    /,
    *,
    on: Any = None,
    jobs: Jobs | None = None,
    count: int | None = None,
    **described: Unpack[Described],
) -> list[Job]:
    """A job like this waits, or exactly *count* do: they, oldest first. Raises AssertionError, which says what is there instead.

    *what*: a job class, an object of one (with its inputs), a method of either, a `@job` function, a prepared call (with its
    inputs), or a name. *on* is the connection to look on, in its open transaction: it sees what was enqueued there. Without it the
    *jobs* (the ambient ones) look, on the connection they are on.
    """
    described_as = wanted(what, described, "assert_enqueued")
    found = await _jobs(on, jobs)
    matching = [job for job in found if not described_as.differences(job)]
    if count is None and matching:
        return matching
    if count is not None and len(matching) == count:
        return matching
    raise AssertionError(_message(described_as, matching, found, count))


async def refute_enqueued(
    what: Any = None, /, *, on: Any = None, jobs: Jobs | None = None, **described: Unpack[Described]
) -> None:
    """No job like this waits. Described as for `assert_enqueued`; raises AssertionError."""
    described_as = wanted(what, described, "refute_enqueued")
    matching = [job for job in await _jobs(on, jobs) if not described_as.differences(job)]
    if matching:
        raise AssertionError(
            "\n".join(
                [f"{_jobs_are(len(matching))} enqueued, which should not be:", *map(_line, matching[:SHOWN])]
            )
        )


async def all_enqueued(
    what: Any = None, /, *, on: Any = None, jobs: Jobs | None = None, **described: Unpack[Described]
) -> list[Job]:
    """The jobs like this that wait, oldest first. Described as for `assert_enqueued`."""
    described_as = wanted(what, described, "all_enqueued")
    return [job for job in await _jobs(on, jobs) if not described_as.differences(job)]


def assert_enqueued_sync(
    what: Any = None,
    /,
    *,
    on: Any,
    jobs: Jobs | None = None,
    count: int | None = None,
    **described: Unpack[Described],
) -> list[Job]:
    """`assert_enqueued` for tests that cannot await: on a sync connection, as `later_sync` takes it."""
    return at_once(assert_enqueued(what, on=join_sync(on), jobs=jobs, count=count, **described))


def refute_enqueued_sync(
    what: Any = None, /, *, on: Any, jobs: Jobs | None = None, **described: Unpack[Described]
) -> None:
    """`refute_enqueued` for tests that cannot await."""
    at_once(refute_enqueued(what, on=join_sync(on), jobs=jobs, **described))


def all_enqueued_sync(
    what: Any = None, /, *, on: Any, jobs: Jobs | None = None, **described: Unpack[Described]
) -> list[Job]:
    """`all_enqueued` for tests that cannot await."""
    return at_once(all_enqueued(what, on=join_sync(on), jobs=jobs, **described))


async def _jobs(on: Any, jobs: Jobs | None) -> list[Job]:
    """Every job to be seen, oldest first."""
    found: Any = jobs
    if not is_sync(on):
        try:
            found, on = which(jobs, on)
        except WhichJobs:
            if on is None:
                raise
    if on is None:
        listed = await found.ask(views.list_jobs, limit=_ALL)
    else:
        joined = await join(on)
        schema = DEFAULT_SCHEMA if found is None else found.schema
        listed = await views.list_jobs(Session(joined.connection, schema), limit=_ALL)
    return list(reversed(listed))


def _message(described: Wanted, matching: Sequence[Job], found: Sequence[Job], count: int | None) -> str:
    if matching:
        head = f"{_jobs_are(len(matching))} enqueued like this, not {count}:"
        return "\n".join([head, f"    {described}", "", *map(_line, matching[:SHOWN])])
    lines = [
        f"no job like this is enqueued{f', where {count} should be' if count else ''}:",
        f"    {described}",
        "",
    ]
    live = [job for job in found if not job.state.is_final]
    final = [job for job in found if job.state.is_final and described.is_of_kind(job)]
    if not live and not final:
        return "\n".join([*lines, "nothing is enqueued"])
    nearest = sorted(
        live, key=lambda job: (not described.is_of_kind(job), len(described.differences(job)), job.id)
    )
    if live:
        lines.append(f"{_jobs_are(len(live))} enqueued:")
    else:
        lines.append("nothing is enqueued, and of that kind there is what has ended:")
    for job in [*nearest, *final][:SHOWN]:
        lines.append(_line(job))
        lines.extend(f"        ! {each}" for each in described.differences(job))
    left = len(nearest) + len(final) - SHOWN
    return "\n".join([*lines, *([f"    … and {left} more"] if left > 0 else [])])


def _jobs_are(number: int) -> str:
    return "1 job is" if number == 1 else f"{number} jobs are"


def _line(job: Job) -> str:
    return f"    {job.id}  {job.name}  {shorten(inputs_of(job))}  in {job.queue!r}, priority {job.priority}, {when_of(job)}"
