"""The application: enqueues in transactions of its own, some of which are rolled back, and cancels now and then.

`python -m soak.producer DSN FOLDER CONFIG`, until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from asyncjobs import Jobs, Prepared
from soak import jobs as kinds
from soak.history import Recorder

WAYS = {"commit": 55, "ambient": 10, "rollback": 10, "savepoint": 10, "alone": 12, "slowly": 3}
MIX = {
    "quick": 50, "nap": 8, "thread": 4, "block": 0.2, "effect": 14, "handover": 6, "parent": 4, "stumble": 3, "hopeless": 2,
    "snooze": 3, "refuse": 2,
}  # fmt: skip
SIZES = (1, 1, 2, 5, 10, 20)
CANCELLED = 0.02  #: of all jobs
POISON_EVERY = 5000  #: jobs; the first comes early
FIRST_POISON = 400


class Producer:
    """Enqueues at a rate."""

    def __init__(
        self, dsn: str, recorder: Recorder, jobs: Jobs, seed: int, rate: float, *, poison: bool
    ) -> None:
        self._dsn = dsn
        self._recorder = recorder
        self._jobs = jobs
        self._dice = random.Random(seed)
        self._rate = rate
        self._next_poison = FIRST_POISON if poison else 10**12
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection: asyncpg.Connection | None = None
        self.stopped = False

    async def run(self) -> None:
        """Enqueue, until stopped."""
        operator = asyncio.create_task(self._cancel_what_runs())
        due = time.monotonic()
        while not self.stopped:
            size = self._dice.choice(SIZES)
            due = max(due + size / self._rate, time.monotonic() - 2)
            await self._enqueue(self._way(), size)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.wait({operator, *self._tasks}, timeout=15)
        if self._connection is not None:
            self._connection.terminate()

    def _way(self) -> str:
        return self._dice.choices(list(WAYS), list(WAYS.values()))[0]

    # What is enqueued.

    def _some(self, size: int) -> dict[str, Prepared[Any]]:
        """New jobs, by key."""
        chosen = {}
        for _ in range(size):
            self._number += 1
            key = f"j{self._number:07}"
            chosen[key] = self._one(key)
        return chosen

    def _one(self, key: str) -> Prepared[Any]:
        dice = self._dice
        kind = dice.choices(list(MIX), list(MIX.values()))[0]
        if self._number >= self._next_poison:
            kind, self._next_poison = "poison", self._next_poison + POISON_EVERY
        options: dict[str, Any] = {}
        if dice.random() < 0.1:
            options["delay"] = round(dice.uniform(0.1, 3.0), 3)
        if dice.random() < 0.1:
            options["priority"] = dice.randrange(-10, 11)
        if kind in ("quick", "nap") and dice.random() < 0.05:
            options["queue"] = "narrow"
        args: tuple[Any, ...] = (key,)
        if kind in ("nap", "thread", "effect", "handover"):
            short = dice.random() < 0.95
            args = (key, round(dice.uniform(0.0, 0.03) if short else dice.uniform(0.1, kinds.LONGEST), 3))
        elif kind == "block":
            args = (key, round(dice.uniform(0.05, 0.4), 3))
        function: Any = getattr(kinds, kind)
        prepared: Prepared[Any] = (function.set(**options) if options else function).prepare(*args)
        return prepared

    # How.

    async def _enqueue(self, way: str, size: int) -> None:
        jobs = self._some(size)
        if way == "alone":
            await self._alone(jobs)
            return
        if way == "slowly":
            task = asyncio.create_task(self._slowly(jobs, self._dice.uniform(1, 5)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=30)
        except Exception:
            await asyncio.sleep(0.1)
            return  # nobody was told of these jobs
        await self._together(self._connection, way, jobs)

    async def _alone(self, jobs: dict[str, Prepared[Any]]) -> None:
        self._recorder.note("enqueue", "invoke", keys=list(jobs), way="alone")
        try:
            handles = await self._jobs.enqueue_many(jobs.values())
        except Exception as error:
            self._recorder.note("enqueue", "info", keys=list(jobs), said=type(error).__name__)
            await asyncio.sleep(0.1)
            return
        self._stored(list(jobs), [handle.id for handle in handles])

    async def _slowly(self, jobs: dict[str, Prepared[Any]], seconds: float) -> None:
        """In a transaction that stays open for a while."""
        try:
            connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=30)
        except Exception:
            return
        try:
            await self._together(connection, "commit", jobs, seconds)
        finally:
            connection.terminate()

    async def _together(
        self, connection: asyncpg.Connection, way: str, jobs: dict[str, Prepared[Any]], seconds: float = 0.0
    ) -> None:
        keys = list(jobs)
        undone = keys[len(keys) // 2 :] if way == "savepoint" else []
        stays = [key for key in keys if key not in undone]
        phase = "fail"  # until the commit is sent, what is not done cannot be done
        self._recorder.note("enqueue", "invoke", keys=keys, way=way)
        try:
            transaction: Any = connection.transaction()
            await transaction.start()
            ids = []
            if stays:
                await connection.executemany(
                    "insert into soak.sent (key) values ($1)", [(key,) for key in stays]
                )
                if way == "ambient":
                    async with self._jobs.on(connection):
                        handles = await self._jobs.enqueue_many(jobs[key] for key in stays)
                else:
                    handles = await self._jobs.enqueue_many((jobs[key] for key in stays), on=connection)
                ids = [handle.id for handle in handles]
            if undone:
                savepoint: Any = connection.transaction()
                await savepoint.start()
                await self._jobs.enqueue_many((jobs[key] for key in undone), on=connection)
                await savepoint.rollback()
                self._recorder.note("enqueue", "fail", keys=undone)
            if seconds:
                await asyncio.sleep(seconds)
            if way == "rollback":
                await transaction.rollback()
                self._recorder.note("enqueue", "fail", keys=stays)
                return
            phase = "info"
            await transaction.commit()
        except Exception as error:
            connection.terminate()
            self._recorder.note("enqueue", phase, keys=stays, said=type(error).__name__)
            await asyncio.sleep(0.05)
            return
        self._stored(stays, ids)

    def _stored(self, keys: Sequence[str], ids: Sequence[int]) -> None:
        self._recorder.note("enqueue", "ok", keys=list(keys), ids=list(ids))
        for key, job_id in zip(keys, ids, strict=True):
            if self._dice.random() < CANCELLED:
                task = asyncio.create_task(self._cancel(key, job_id, self._dice.uniform(0, 1.5)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _cancel_what_runs(self) -> None:
        """Somebody looks what is running, and stops one of them."""
        dice = random.Random(self._dice.random())
        while not self.stopped:
            await asyncio.sleep(dice.uniform(0.1, 1.0))
            try:
                running = await self._jobs.list_jobs(states=["running"], limit=20)
            except Exception:
                continue
            if running:
                job = dice.choice(running)
                await self._cancel(str(job.args["key"]), job.id, 0.0)

    async def _cancel(self, key: str, job_id: int, after: float) -> None:
        await asyncio.sleep(after)
        self._recorder.note("cancel", "invoke", key=key, job=job_id)
        try:
            answer = await self._jobs.cancel(job_id)
        except Exception as error:
            self._recorder.note("cancel", "info", key=key, job=job_id, said=type(error).__name__)
            return
        self._recorder.note("cancel", "ok", key=key, job=job_id, answer=answer or "too late")


async def main(dsn: str, folder: Path, config: dict[str, Any]) -> None:
    logging.disable()  # an application that enqueues is told by exceptions
    recorder = Recorder(folder, "producer", -2)
    async with Jobs(dsn) as jobs:
        producer = Producer(dsn, recorder, jobs, config["seed"], config["rate"], poison=config["poison"])
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, producer, "stopped", True)
        await producer.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])))
