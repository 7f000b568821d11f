"""The kinds of jobs of a soak. Each writes down when it starts and how it ends, under the token of its claim."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from asyncjobs import Cancel, Constant, Jobs, Snooze, current_job, job
from soak.history import Recorder

recorder: Recorder
jobs: Jobs  #: the one this process runs
dsn: str  #: for the application's own connections

QUEUES = {"wide": 20, "narrow": 2}  #: slots of each in one process
LONGEST = 1.5  #: seconds a job takes at most
OFTEN: dict[str, Any] = {"queue": "wide", "max_attempts": 60, "backoff": Constant(0.3)}
SOMETIMES: dict[str, Any] = {"queue": "wide", "max_attempts": 2, "backoff": Constant(0.2)}


class Stumbled(Exception):
    """What jobs raise that fail on purpose."""


@contextmanager
def witnessed(key: str) -> Iterator[int]:
    """Write down the attempt; gives its token."""
    claimed: Any = current_job()
    job_id, token = claimed.id, claimed._job.token
    runner = jobs.runner
    incarnation = getattr(runner, "_identity").latest if runner is not None else None
    recorder.note(
        "start",
        key=key,
        job=job_id,
        token=token,
        kind=claimed.kind,
        queue=claimed.queue,
        runner=str(incarnation),
    )
    outcome, said = "ok", ""
    try:
        yield token
    except Stumbled:
        outcome = "raised"
        raise
    except Snooze:
        outcome = "snoozed"
        raise
    except Cancel:
        outcome = "refused"
        raise
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "stopped"
        raise
    except BaseException as error:
        outcome, said = "broke", type(error).__name__
        raise
    finally:
        recorder.note("end", outcome, key=key, job=job_id, token=token, said=said)


@job(kind="soak:quick", **OFTEN)
async def quick(key: str) -> str:
    """Does nothing."""
    with witnessed(key):
        return key


@job(kind="soak:nap", **OFTEN)
async def nap(key: str, seconds: float) -> None:
    """Waits, as for an answer from the network."""
    with witnessed(key):
        await asyncio.sleep(seconds)


@job(kind="soak:thread", **OFTEN)
def thread(key: str, seconds: float) -> None:
    """Blocks a thread of its own."""
    with witnessed(key):
        time.sleep(seconds)


@job(kind="soak:block", **OFTEN)
async def block(key: str, seconds: float) -> None:
    """Blocks the event loop for everybody."""
    with witnessed(key):
        time.sleep(seconds)  # noqa: ASYNC251


@job(kind="soak:effect", **OFTEN)
async def effect(key: str, seconds: float) -> None:
    """Completes in the transaction of its own write."""
    with witnessed(key) as token:
        async with current_job().transaction() as connection:
            await connection.execute(
                "insert into soak.effects (key, job, token) values ($1, $2, $3)", key, current_job().id, token
            )
            await asyncio.sleep(seconds)


@job(kind="soak:handover", **OFTEN)
async def handover(key: str, seconds: float) -> None:
    """Completes in a transaction of the application's, on its own connection."""
    with witnessed(key) as token:
        connection = await asyncpg.connect(dsn, timeout=5, command_timeout=30)
        try:
            async with connection.transaction():
                await connection.execute(
                    "insert into soak.effects (key, job, token) values ($1, $2, $3)",
                    key,
                    current_job().id,
                    token,
                )
                await asyncio.sleep(seconds)
                await current_job().complete(on=connection)
        finally:
            connection.terminate()


@job(kind="soak:parent", **OFTEN)
async def parent(key: str) -> None:
    """Enqueues one job in its own transaction, and another in a savepoint that is rolled back."""
    with witnessed(key) as token:
        async with current_job().transaction() as connection:
            born, undone = f"{key}/born", f"{key}/undone/{token}"
            recorder.note("enqueue", "fail", keys=[undone])
            await connection.execute("insert into soak.sent (key) values ($1)", born)
            await quick.later(born)
            savepoint: Any = connection.transaction()
            await savepoint.start()
            await quick.later(undone)
            await savepoint.rollback()
            await connection.execute(
                "insert into soak.effects (key, job, token) values ($1, $2, $3)", key, current_job().id, token
            )


@job(kind="soak:stumble", **OFTEN)
async def stumble(key: str) -> None:
    """Fails at its first attempt."""
    with witnessed(key):
        if current_job().attempt == 1:
            raise Stumbled(key)


@job(kind="soak:hopeless", **SOMETIMES)
async def hopeless(key: str) -> None:
    """Fails for good."""
    with witnessed(key):
        raise Stumbled(key)


@job(kind="soak:snooze", **OFTEN)
async def snooze(key: str) -> None:
    """Asks to run later, once."""
    with witnessed(key) as token:
        if token == 1:
            raise Snooze(0.5)


@job(kind="soak:refuse", **OFTEN)
async def refuse(key: str) -> None:
    """Ends itself as cancelled."""
    with witnessed(key):
        raise Cancel("no")


@job(kind="soak:poison", **OFTEN)
async def poison(key: str) -> None:
    """Takes its process down."""
    with witnessed(key):
        recorder.note("process", "poisoned", key=key)
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)


TRANSACTIONAL = frozenset({"soak:effect", "soak:handover", "soak:parent"})  #: one effect each
DOOMED = frozenset({"soak:hopeless", "soak:poison"})  #: end as failed
REFUSING = frozenset({"soak:refuse"})  #: end as cancelled
POISON = "soak:poison"
