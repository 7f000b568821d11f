"""Every job that waits, decoded with the code of this process: what would fail if it were deployed, found before it is.

Nothing is called but what decoding calls: upcasters, and the `__init__` of a class none of whose fields is supplied. What is
found is said without what is stored: it ends up in the log of a deployment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import attrs

from asyncjobs._define import registry
from asyncjobs._define.codec import Codec
from asyncjobs._define.faithful import shorten
from asyncjobs._define.signature import ADVICE
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.versions import name_and_version
from asyncjobs._model.words import counted
from asyncjobs._store.schedules import list_schedules, stored_job
from asyncjobs._store.views import WaitingJob, walk_jobs
from asyncjobs.errors import InvalidDefinition, UndecodableInput, UnknownKind

BATCH = 2000  #: jobs in memory
MOST_IDS = 5  #: of jobs that are alike, so many are named
MOST_NAMES = 3  #: of inputs that nothing takes, so many are named
MOST_FINDINGS = 1000  #: what goes beyond is one finding


class _Alike(NamedTuple):
    reason: str
    kind: str
    method: str | None
    input: str | None


@attrs.define
class Finding:
    """Jobs that this code cannot run, and why: all of one kind, at one version, for one reason."""

    reason: str  #: in two or three words
    kind: str
    version: int
    method: str | None
    input: str | None  #: the one that does not fit, where it is one
    says: str  #: of the first of them
    jobs: int = 0
    ids: list[int] = attrs.field(factory=list)  #: of the first of them

    def __str__(self) -> str:
        called = self.kind if self.method is None else f"{self.kind}.{self.method}"
        ids = ", ".join(map(str, self.ids)) + (", …" if self.jobs > len(self.ids) else "")
        return (
            f"{counted(self.jobs, 'job')} of {called}, stored at version {self.version} ({ids}): {self.says}"
        )


@attrs.define
class Report:
    """What was found."""

    jobs: int = 0  #: how many were decoded, or should have been
    findings: list[Finding] = attrs.field(factory=list)


async def check_waiting(
    jobs: Enqueuer, codec: Codec, *, queues: Sequence[str] | None = None, foreign_kinds: bool = False
) -> Report:
    """Decode every job that is not final, of *queues* or of all. With *foreign_kinds*, kinds that are not defined here are
    another application's, and left to it.
    """
    report, found, after = Report(), dict[_Alike, Finding](), 0
    while batch := await jobs.ask(walk_jobs, after, BATCH, queues):
        report.jobs += len(batch)
        after = batch[-1].id
        for job, alike, says in _misfits(batch, codec):
            if not (foreign_kinds and alike.reason == UNKNOWN):
                _add(found, job, alike, says)
    report.findings = sorted(found.values(), key=lambda each: -each.jobs)
    return report


UNKNOWN = "unknown kind"


def _misfits(batch: Iterable[WaitingJob], codec: Codec) -> Iterator[tuple[WaitingJob, _Alike, str]]:
    for job in batch:
        misfit = _misfit(job.kind, job.method, job.args, codec)
        if misfit is not None:
            yield job, *misfit


def _misfit(kind: str, method: str | None, args: str, codec: Codec) -> tuple[_Alike, str] | None:
    """Why a job could not run here, and in words; None when it could."""
    try:
        registry.find(kind).try_out(method, args, codec)
    except UnknownKind as error:
        reason = "newer version" if registry.newer_version(kind) else UNKNOWN
        return _Alike(reason, kind, None, None), str(error) + _if_renamed(kind, reason)
    except InvalidDefinition as error:
        return _Alike("unknown method", kind, method, None), str(error)
    except UndecodableInput as error:
        return _Alike(error.reason, kind, method, error.input), _with_advice(error, kind, method, args, codec)
    return None


def _if_renamed(kind: str, reason: str) -> str:
    """What to do if the kind it is like is what it is called today."""
    if reason != UNKNOWN or registry.nearest(kind) is None:
        return ""
    return f" If it is that one, which was renamed, say aliases=[{name_and_version(kind)[0]!r}] there"


def _with_advice(error: UndecodableInput, kind: str, method: str | None, args: str, codec: Codec) -> str:
    """What *error* says; where one input is missing and another is too many, what to do if it was renamed."""
    definition = registry.find(kind)
    today = definition.history.version
    if error.reason != "missing input" or error.input is None or name_and_version(kind)[1] != today:
        return error.discreet
    over = definition.undeclared(method, args, codec, beside=error.input)
    if not over:
        return error.discreet
    names = ", ".join(map(shorten, over[:MOST_NAMES])) + (", …" if len(over) > MOST_NAMES else "")
    return (
        f"{error.discreet.removesuffix(ADVICE)}, and with {names}, which nothing takes; if that was renamed, or has another shape "
        f"now, say version={today + 1} and upcasters={{{today}: …}}, which makes the one of the other; if not, give {error.input!r} "
        "a default"
    )


async def check_stored_schedules(jobs: Enqueuer, codec: Codec, *, foreign_kinds: bool = False) -> list[str]:
    """What the schedules that were created at run time would enqueue, decoded; those of code are declared anew by code."""
    problems = []
    for schedule in await jobs.ask(list_schedules):
        if schedule.owner is None:
            try:
                job = stored_job(schedule)
            except UndecodableInput as error:
                problems.append(str(error))
                continue
            misfit = _misfit(job.stored_kind, job.method, job.args, codec)
            if misfit is not None and not (foreign_kinds and misfit[0].reason == UNKNOWN):
                problems.append(f"schedule {schedule.name!r} of {job.kind}: {misfit[1]}")
    return problems


def _add(found: dict[_Alike, Finding], job: WaitingJob, alike: _Alike, says: str) -> None:
    if alike not in found and len(found) >= MOST_FINDINGS:
        alike, says = _Alike("more", "…", None, None), "and others, of more kinds than can be told apart"
    if alike not in found:
        kind, version = name_and_version(alike.kind)
        found[alike] = Finding(alike.reason, kind, version, alike.method, alike.input, says)
    finding = found[alike]
    finding.jobs += 1
    if len(finding.ids) < MOST_IDS:
        finding.ids.append(job.id)
