"""`python -m asyncjobs` as a user runs it: in a folder of their own, with their own module, as a process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from attrs import field, frozen

from tests.waiting import DEADLINE, eventually_async


@frozen
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.out)


@frozen
class Going:
    """A command that is running."""

    process: anyio.abc.Process
    errors: Path

    @property
    def err(self) -> str:
        return self.errors.read_text("utf-8")

    async def says(self, words: str) -> None:
        """Wait until *words* stand on stderr."""

        async def said() -> bool:
            assert words in self.err or self.process.returncode is None, self.err
            return words in self.err

        await eventually_async(said)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, within: float = DEADLINE) -> int:
        """Its exit code."""
        with anyio.fail_after(within):
            return await self.process.wait()


@frozen
class Shell:
    """Runs commands in *folder*."""

    folder: Path
    env: dict[str, str] = field(factory=dict)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCJOBS_")}
        return {**inherited, **self.env, **more}

    async def __call__(self, *args: object, **env: str) -> Done:
        """Run `python -m asyncjobs` to its end."""
        return await self.run([sys.executable, "-m", "asyncjobs", *map(str, args)], **env)

    async def run(self, command: list[str], **env: str) -> Done:
        with anyio.fail_after(60):
            done = await anyio.run_process(
                command, check=False, cwd=self.folder, env=self._environment(env), start_new_session=True
            )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    @asynccontextmanager
    async def going(self, *args: object, **env: str) -> AsyncIterator[Going]:
        """Run `python -m asyncjobs` meanwhile; killed at the end if it is still there."""
        errors = self.folder / "stderr"
        with errors.open("wb") as stderr:
            process = await anyio.open_process(
                [sys.executable, "-m", "asyncjobs", *map(str, args)],
                stdout=stderr,
                stderr=stderr,
                cwd=self.folder,
                env=self._environment(env),
                start_new_session=True,
            )
        async with process:
            try:
                yield Going(process, errors)
            finally:
                with suppress(ProcessLookupError):
                    process.kill()


async def appears(mark: Path) -> None:
    """Wait until a job has written its *mark*."""

    async def there() -> bool:
        return await anyio.Path(mark).exists()

    await eventually_async(there)


SHOP = """
import asyncio, os, sys, time
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import attrs
from asyncjobs import Cancel, Constant, Dependency, Jobs, Later, current_job, job
from shop import clashes


class Mailer:
    def send(self, to):
        return f"sent to {to}"


jobs = Jobs(
    os.environ["SHOP_DSN"],
    shutdown_timeout=float(os.environ.get("SHOP_TIMEOUT", "4")),
    provide={Mailer: Mailer},
)
print("the shop opens")  # as modules do that were never meant for machines


@attrs.frozen
class ExportStations(Later, queue="exports", max_attempts=1):
    tenant: str
    limit: int | None = None

    async def call(self) -> int:
        print("exporting", self.tenant)
        os.system("echo from another program")
        return len(self.tenant)

    async def fail(self) -> None:
        raise ValueError(f"no stations in {self.tenant}")

    async def give_up(self) -> None:
        raise Cancel("nobody wants it")

    @job
    async def dump(self, when: datetime, amount: Decimal = Decimal(1)) -> str:
        return f"{self.tenant} {when.isoformat()} {amount}"


@attrs.frozen
class Letter(Later, queue="mail"):
    to: str
    mailer: Dependency[Mailer]

    def post(self) -> str:
        return self.mailer.send(self.to)


@attrs.frozen
class Picky(Later):
    size: int = attrs.field(validator=attrs.validators.gt(0))

    async def one(self) -> None: ...
    async def two(self) -> None: ...


@attrs.frozen
class Finished(Later):
    async def needed(self) -> bool:
        return False

    async def call(self) -> None: ...


@job(queue="mail")
def send(user_id: int, *, tags: list[str] | None = None) -> dict:
    return {"user": user_id, "tags": tags, "in a job": current_job().id is not None}


@job
async def chain(user_id: int) -> int:
    return (await send.later(user_id)).id


@job
async def sleep(mark: str) -> None:
    Path(mark).write_text("begun")
    await asyncio.sleep(600)


@job
async def wait_for(mark: str, end: str) -> None:
    Path(mark).write_text("begun")
    while not Path(end).exists():
        await asyncio.sleep(0.01)


@job
def sleep_in_a_thread(mark: str) -> None:
    Path(mark).write_text("begun")
    time.sleep(600)


@job
async def sleep_in_a_thread_of_others(mark: str) -> None:
    Path(mark).write_text("begun")
    await asyncio.to_thread(time.sleep, 600)


@job
def total(first: int, /, *rest: int, **named: int) -> int:
    return first * 100 + sum(rest) * 10 + sum(named.values())


@job
def odd() -> object:
    return object()
"""

CLASHES = """
from asyncjobs import job




@job(kind="shop.one:clash")
async def one() -> None: ...


@job(kind="shop.two:clash")
async def two() -> None: ...
"""


def open_shop(folder: Path, dsn: str) -> Shell:
    """A user's folder with a package `shop`, its jobs in `shop.main` on the database at *dsn*."""
    shell = Shell(folder, {"SHOP_DSN": dsn})
    shell.write("shop/__init__.py", "")
    shell.write("shop/main.py", SHOP)
    shell.write("shop/clashes.py", CLASHES)
    return shell
