"""All that is known of a run when it is over: the histories, the trail, and what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import cattrs
import orjson

from soak.history import Event, read


@attrs.frozen
class Stored:
    """A job as it is stored in the end."""

    job: int
    key: str
    kind: str
    state: str
    attempt: int
    max_attempts: int
    crashes: int


@attrs.frozen
class Change:
    """Something that happened to a job's row; in the order of `n` for one job. What `was` is None where there was no row."""

    n: int
    at: float
    xid: int
    job: int
    kind: str
    queue: str
    priority: int
    due: float
    was_state: int | None
    was_runner: int | None
    was_token: int | None
    was_attempt: int | None
    was_cancel: bool | None
    state: int
    runner: int | None
    token: int
    attempt: int
    crashes: int
    cancel: bool


@attrs.frozen
class Incarnation:
    """One name of a runner."""

    incarnation: int
    pid: int
    holds_lock: bool
    since: float
    until: float | None


@attrs.frozen
class Effect:
    """What a transactional job wrote."""

    key: str
    job: int
    token: int


@attrs.frozen
class Leftovers:
    """What is there after the last process has ended, and should not be."""

    runners: int = 0
    locks: int = 0
    sessions: int = 0
    said: str = ""  #: by processes, outside of their logs


@attrs.frozen
class Times:
    """What may take how long, in seconds."""

    look: float = 1.0
    settle: float = 10.0
    lease: float = 20.0
    max_crashes: int = 3
    alone: float = 30.0  #: a suspect has its process to itself for so long
    shutdown: float = 8.0
    passed_by: float = 10.0  #: a job may be overtaken in its lane while it has been ready for less
    slack: float = 10.0  #: what a busy machine may add to a rescue

    @property
    def rescue(self) -> float:
        """From the death of a process to its jobs being free again, in the worst case."""
        return self.lease + self.settle + 3 * self.look + self.slack


@attrs.frozen
class Record:
    """A run."""

    times: Times = attrs.field(factory=Times)
    slots: Mapping[str, int] = attrs.field(factory=dict)
    events: Sequence[Event] = ()
    jobs: Sequence[Stored] = ()
    trail: Sequence[Change] = ()
    incarnations: Sequence[Incarnation] = ()
    effects: Sequence[Effect] = ()
    sent: Sequence[str] = ()
    leftovers: Leftovers = attrs.field(factory=Leftovers)


JOBS = """
select id as job, args->>'key' as key, kind, state, attempt, max_attempts, crashes from asyncjobs.jobs order by id"""
TRAIL = """
select n, extract(epoch from at)::float8 as at, xid, job, kind, queue, priority, extract(epoch from due)::float8 as due,
       was_state, was_runner, was_token, was_attempt, was_cancel, state, runner, token, attempt, crashes, cancel
  from soak.trail order by n"""
INCARNATIONS = """
select incarnation, min(pid) as pid, bool_or(holds_lock) as holds_lock,
       extract(epoch from min(at) filter (where not gone))::float8 as since,
       extract(epoch from max(at) filter (where gone))::float8 as until
  from soak.incarnations group by incarnation"""


async def tables(connection: asyncpg.Connection, times: Times, slots: Mapping[str, int], said: str) -> Record:
    """What is stored, without the histories."""

    async def all_of(kind: type[Any], sql: str) -> list[Any]:
        return [kind(**row) for row in await connection.fetch(sql)]

    return Record(
        times=times,
        slots=slots,
        jobs=await all_of(Stored, JOBS),
        trail=await all_of(Change, TRAIL),
        incarnations=await all_of(Incarnation, INCARNATIONS),
        effects=await all_of(Effect, "select key, job, token from soak.effects"),
        sent=[row[0] for row in await connection.fetch("select key from soak.sent")],
        leftovers=Leftovers(
            runners=await connection.fetchval("select count(*) from asyncjobs.runners"),
            locks=await connection.fetchval(
                "select count(*) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
            ),
            sessions=await connection.fetchval("""
                select count(*) from pg_stat_activity
                 where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"""),
            said=said,
        ),
    )


def save(record: Record, folder: Path) -> None:
    """Keep it beside the histories."""
    (folder / "tables.json").write_bytes(orjson.dumps(cattrs.unstructure(record)))


def load(folder: Path) -> Record:
    """What a run left in *folder*."""
    record = cattrs.structure(orjson.loads((folder / "tables.json").read_bytes()), Record)
    return attrs.evolve(record, events=read(folder))
