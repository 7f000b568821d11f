"""A runner as a process of its own, to be killed, frozen and cut off. `python -m tests.faults.program DSN LOG [JSON]`.

What happens is appended to LOG, one line at a time, by every process of a test: when, who, what, and to which job.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import sys
import time
from typing import Any

import attrs

from asyncjobs import Jobs, LeaseLost, current_job, job
from asyncjobs._engine import claimer
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.connection import Connection

log = -1


def say(word: str, name: str = "") -> None:
    os.write(log, f"{time.monotonic():.6f} {os.getpid()} {word} {name}\n".encode())


@job(kind="fault:sleep")
async def sleep(name: str, seconds: float = 0.0) -> str:
    """Takes a while, and does not mind to be cancelled."""
    say("START", name)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        say("CANCELLED", name)
        raise
    say("END", name)
    return name


@job(kind="fault:block")
async def block(name: str, seconds: float) -> None:
    """Nothing else runs on the loop meanwhile."""
    say("START", name)
    time.sleep(seconds)  # noqa: ASYNC251
    say("END", name)


@job(kind="fault:hog")
async def hog(name: str, seconds: float) -> None:
    """Nothing else runs in the interpreter meanwhile, in whatever thread: C code that never lets go."""
    say("START", name)
    began = time.monotonic()
    numbers = 10_000_000
    while (took := time.monotonic() - began) < seconds:
        left = seconds - took
        began_one = time.monotonic()
        sum(range(numbers))
        numbers = max(numbers, int(numbers * left / (time.monotonic() - began_one)))
    say("END", name)


@job(kind="fault:fork")
async def fork(name: str, seconds: float) -> None:
    """Leaves a child that has everything its parent had open, and outlives it."""
    say("START", name)
    child = os.fork()
    if child == 0:
        time.sleep(seconds)  # noqa: ASYNC251
        os._exit(0)
    say(f"CHILD:{child}", name)
    await asyncio.sleep(seconds)


@job(kind="fault:slow")
async def slow(name: str, seconds: float) -> None:
    """The server takes its time over a statement in the middle of its transaction."""
    say("START", name)
    async with current_job().transaction() as connection:
        await effect(connection, name)
        say("WRITTEN", name)
        await connection.execute("select pg_sleep($1)", seconds)
    say("COMMITTED", name)


@job(kind="fault:write")
async def write(name: str, seconds: float) -> None:
    """Its effect commits with its completion."""
    say("START", name)
    try:
        async with current_job().transaction() as connection:
            await effect(connection, name)
            say("WRITTEN", name)
            await asyncio.sleep(seconds)
            say("COMMITS", name)
    except LeaseLost:
        say("FENCED", name)
        raise
    except asyncio.CancelledError:
        say("CANCELLED", name)
        raise
    say("COMMITTED", name)


async def effect(connection: Connection, name: str) -> None:
    await connection.execute("insert into effects (name, pid) values ($1, $2)", name, os.getpid())


@job(kind="fault:poison")
async def poison(name: str) -> None:
    """Whoever runs it is gone."""
    say("START", name)
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)


@job(kind="fault:die")
async def die(name: str, how: str, after: float = 0.0) -> None:
    """Takes its process with it, one way or another."""
    say("START", name)
    await asyncio.sleep(after)
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "memory":
        hoard = []
        while True:
            hoard.append(b"x" * 16_000_000)


@job(kind="fault:hold_the_gil")
def hold_the_gil(name: str) -> None:
    """A regular expression that nothing interrupts, in a thread; and nothing else runs meanwhile."""
    say("START", name)
    re.fullmatch(r"(a|aa)+", "a" * 60 + "b")


async def main(dsn: str, config: dict[str, Any]) -> None:
    if "too_long" in config:
        vars(claimer)["TOO_LONG"] = config.pop("too_long")
    vigilance = attrs.evolve(Vigilance(), **config.pop("vigilance", {}))
    async with Jobs(dsn, vigilance=vigilance, **config).running() as jobs:
        assert jobs._supervisor is not None
        await jobs._supervisor.runner.connected()
        say("READY")
        await asyncio.Event().wait()


if __name__ == "__main__":
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
