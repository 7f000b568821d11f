"""For the engine: claim, begin, finish, return. Every write after the claim is fenced by (id, incarnation, token)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import attrs

from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.urgency import EVERY_PRIORITY, LEAST_URGENT, MOST_URGENT, Urgency
from asyncjobs._store.rows import claim_order, claimed_job
from asyncjobs._store.session import Session

T = TypeVar("T")

A_BATCH = 500  #: jobs one statement handles: beyond it, neither claim nor finish gets cheaper per job


class Mark(NamedTuple):
    """How far a lane has been claimed: the place of its last claimed job."""

    priority: int
    scheduled_at: datetime
    id: int


FROM_THE_START = Mark(MOST_URGENT, datetime(1, 1, 1, tzinfo=UTC), 0)


@attrs.frozen
class LaneRequest:
    """One lane of a claim."""

    lane: Lane
    pool: int  #: the pool of slots it draws on
    room: int  #: how many jobs the pool has room for
    alone: bool  #: no other lane draws on the pool
    mark: Mark = FROM_THE_START
    last_priority: int = LEAST_URGENT  #: the least urgent the pool takes
    weight: int = 0  #: of the queue: the heavier come first
    served: int = 0  #: when the queue was served last; among equals who has waited longest comes first


class Claim(NamedTuple):
    """Which claim a write belongs to: (id, token), under one incarnation."""

    id: int
    token: int


class Surroundings(NamedTuple):
    """What a claimer sees when it looks around."""

    lanes: list[Lane]  #: where a job is ready now
    due: float | None  #: seconds until the next scheduled job is due; negative when it is overdue
    paused: frozenset[str]  #: queues nobody may claim from
    suspects: bool  #: one that may be what kills runners waits to run alone
    limited: bool  #: there are queues with limits
    in_line: bool  #: some wait for the turn of their key
    rate_due: float | None  #: seconds until somebody who waits for a rate is due; negative when overdue


class Caution(NamedTuple):
    """How jobs are run that are suspected of killing runners."""

    alone: float = 30.0  #: seconds it has its runner to itself; to the end, if the next crash would fail it
    max_crashes: int = 3


async def look_around(session: Session) -> Surroundings:
    """Where jobs are ready, when the next is due, which queues are paused, whether a suspect waits."""
    queues, kinds, due, paused, suspects, limited, in_line, rate_due = await session.fetchrow("look_around")
    lanes = [Lane(*lane) for lane in zip(queues, kinds, strict=True)]
    return Surroundings(lanes, due, frozenset(paused), suspects, limited, in_line, rate_due)


async def claim_jobs(
    session: Session,
    requests: Sequence[LaneRequest],
    incarnation: int,
    *,
    begin: bool,
    limited: Sequence[str] = (),
) -> list[ClaimedJob]:
    """Claim up to each pool's room, in order; jobs others are claiming are passed over, not waited for.

    Those of *limited* queues have yet to be let in, and keep their unique keys until then.
    """
    rows = await session.fetch(
        "claim_jobs",
        [request.lane.queue for request in requests],
        [request.lane.kind for request in requests],
        [request.pool for request in requests],
        [request.room for request in requests],
        [request.alone for request in requests],
        [request.mark.priority for request in requests],
        [request.mark.scheduled_at for request in requests],
        [request.mark.id for request in requests],
        incarnation,
        begin,
        [request.last_priority for request in requests],
        [request.weight for request in requests],
        [request.served for request in requests],
        list(limited),
    )
    return sorted(map(claimed_job, rows), key=claim_order)


class Suspect(NamedTuple):
    """A claimed job that may be what kills runners."""

    job: ClaimedJob
    crashes: int  #: how many runners it has taken down


async def seek_suspect(
    session: Session,
    queues: Sequence[str],
    kinds: Sequence[str],
    caution: Caution,
    urgency: Urgency = EVERY_PRIORITY,
) -> bool:
    """Whether a suspect of these waits, and none runs alone anywhere. The queue '' is every queue."""
    found: bool = await session.fetchval("seek_suspect", queues, kinds, *caution, *urgency)
    return found


async def claim_suspect(
    session: Session,
    incarnation: int,
    queues: Sequence[str],
    kinds: Sequence[str],
    caution: Caution,
    *,
    urgency: Urgency = EVERY_PRIORITY,
) -> Suspect | None:
    """Claim a suspect for *incarnation*, which must hold nothing else; it begins at once. None where none may run now."""
    row = await session.fetchrow("claim_suspect", queues, kinds, *caution, incarnation, *urgency)
    if row is None:
        return None
    *job, crashes = row
    return Suspect(claimed_job(job), crashes)


async def take_turn(session: Session, longest: float) -> float | None:
    """Take the turn to become empty for a suspect: for how many seconds. None while it is another runner's."""
    seconds: float | None = await session.fetchval("take_turn", longest)
    return seconds


async def begin_jobs(session: Session, incarnation: int, claims: Sequence[Claim | ClaimedJob]) -> bool:
    """Say which prefetched jobs have begun. False when the incarnation is gone: then none may begin."""
    ids = _as_text([claim.id for claim in claims])
    tokens = _as_text([claim.token for claim in claims])
    return await session.fetchval("begin_jobs", incarnation, ids, tokens) is not None


async def finish_jobs(session: Session, incarnation: int, finished: Iterable[Finished]) -> set[int]:
    """Move jobs to their final state; the ids that were still ours."""
    jobs = sorted(finished, key=_by_id)
    rows = await session.fetch(
        "finish_jobs",
        _as_text([done.job.id for done in jobs]),
        _as_text([done.job.token for done in jobs]),
        incarnation,
        _as_text([int(done.state) for done in jobs]),
        _as_text([int(done.elapsed * 1_000_000) for done in jobs]),
        _sparse([done.result for done in jobs]),
        _sparse([done.result_error for done in jobs]),
        _sparse([done.error for done in jobs]),
        _sparse([done.kept for done in jobs]),
    )
    return {row[0] for row in rows}


async def return_jobs(session: Session, incarnation: int, returned: Iterable[Returned]) -> set[int]:
    """Let jobs go; the ids that were still ours."""
    jobs = sorted(returned, key=_by_id)
    rows = await session.fetch(
        "return_jobs",
        [back.job.id for back in jobs],
        [back.job.token for back in jobs],
        incarnation,
        [int(back.state) for back in jobs],
        [back.delay for back in jobs],
        [back.unburnt for back in jobs],
        _sparse([back.error for back in jobs]),
    )
    return {row[0] for row in rows}


async def find_finished(session: Session, incarnation: int, claims: Iterable[Claim]) -> set[int]:
    """Which of *claims* are final, by this incarnation."""
    ids, tokens = _split(claims)
    return {row[0] for row in await session.fetch("find_finished", ids, tokens, incarnation)}


async def find_locked(session: Session, ids: Iterable[int]) -> set[int]:
    """Which of these live jobs somebody else's transaction has locked."""
    return {row[0] for row in await session.fetch("find_locked", sorted(ids))}


async def find_held(session: Session, incarnation: int, claims: Iterable[Claim]) -> Mapping[int, bool]:
    """Which of *claims* this incarnation still holds, and whether somebody asked to cancel each."""
    ids, tokens = _split(claims)
    return {row[0]: row[1] for row in await session.fetch("find_held", ids, tokens, incarnation)}


async def find_claims(session: Session, incarnations: Sequence[int]) -> dict[int, frozenset[Claim]]:
    """Every claim of *incarnations*, by which of them holds it."""
    found: dict[int, set[Claim]] = {}
    for runner, job_id, token in await session.fetch("find_claims", incarnations):
        found.setdefault(runner, set()).add(Claim(job_id, token))
    return {runner: frozenset(claims) for runner, claims in found.items()}


async def absolve_jobs(session: Session, incarnation: int, claims: Iterable[Claim]) -> set[int]:
    """Say that these are not to be blamed when the runner is gone; the ids that were still there to absolve."""
    ids, tokens = _split(claims)
    return {row[0] for row in await session.fetch("absolve_jobs", ids, tokens, incarnation)}


async def adopt_jobs(session: Session, old: int, new: int, claims: Iterable[Claim]) -> set[int]:
    """Take the claims of *old* over into *new*; the ids that were still there to take."""
    ids, tokens = _split(claims)
    return {row[0] for row in await session.fetch("adopt_jobs", ids, tokens, old, new)}


async def announce_idle(session: Session, queues: Sequence[str]) -> tuple[list[str], int]:
    """Say that this runner is idle on *queues*: those it was refused for, and the transaction id to wait out."""
    refused, own_xid = await session.fetchrow("announce_idle", queues)
    return refused, own_xid


async def withdraw_idle(session: Session, queues: Sequence[str]) -> None:
    """Say that this runner is busy on *queues*."""
    await session.fetchval("withdraw_idle", queues)


async def wake_others(session: Session, queues: Sequence[str]) -> None:
    """Wake runners that are idle on *queues*; this one does not count."""
    await session.fetchval("wake_others", queues)


async def is_past_horizon(session: Session, xid: int) -> bool:
    """Whether every transaction that began before *xid* is over."""
    past: bool = await session.fetchval("find_horizon", xid)
    return past


def _by_id(outcome: Outcome) -> tuple[int, int]:
    return outcome.job.id, outcome.job.token  # of two claims of one job the statements believe the later


def _as_text(numbers: list[int]) -> str:
    """An array as Postgres writes it. asyncpg asks of each element whether it is an array itself, which takes three times
    as long as printing it here and parsing it there.
    """
    return f"{{{str(numbers)[1:-1]}}}"


def _sparse(values: list[T | None]) -> list[T | None]:
    """All null is nothing: beyond its end an array reads null, and an element costs a driver as much as a value."""
    return values if any(value is not None for value in values) else []


def _split(claims: Iterable[Claim]) -> tuple[list[int], list[int]]:
    ordered = sorted(claims, key=lambda claim: claim.id)
    return [claim.id for claim in ordered], [claim.token for claim in ordered]
