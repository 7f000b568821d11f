"""Jobs of a small shop, as an application would have them."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

import attrs

from asyncjobs import (
    Constant,
    Cron,
    Event,
    Fail,
    Later,
    Lock,
    Retry,
    Snooze,
    current_job,
    job,
)

DID: list[object] = []
"""What ran, in order; emptied before each test."""

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@attrs.frozen
class Address:
    city: str
    street: str | None = None


@attrs.frozen
class Ship(Later, kind="th.Ship", queue="shipping", max_attempts=3, backoff=Constant(timedelta(minutes=10))):
    order: int
    to: Address
    size: Size = Size.SMALL
    by: datetime | None = None
    key: UUID | None = None

    async def call(self) -> str:
        DID.append(("shipped", self.order))
        return self.to.city

    def label(self) -> None:
        DID.append(("labelled", self.order))

    @job
    async def notify(self, who: str) -> None:
        DID.append(("notified", who))


@attrs.frozen
class Write(Later, kind="th.Write"):
    """Writes a row through its own transaction."""

    text: str

    async def call(self) -> None:
        async with current_job().transaction() as connection:
            await connection.execute("insert into notes (text) values ($1)", self.text)


@attrs.frozen
class Charge(Later, kind="th.Charge", queue="billing"):
    invoice: int
    paid: bool = False

    def needed(self) -> bool:
        return not self.paid

    async def call(self) -> None:
        DID.append(("charged", self.invoice))


@job(kind="th.first")
async def first(number: int) -> int:
    DID.append(("first", number))
    await second.later(number + 1)
    return number


@job(kind="th.second", priority=5)
async def second(number: int) -> None:
    DID.append(("second", number))


@job(kind="th.flaky", max_attempts=3, backoff=Constant(timedelta(hours=1), jitter=0))
async def flaky(times: int) -> int:
    DID.append(("tried", current_job().attempt))
    if current_job().attempt <= times:
        raise ValueError("not yet")
    return current_job().attempt


@job(kind="th.again")
async def again() -> None:
    await again.later()


@job(kind="th.snoozes")
async def snoozes() -> Snooze:
    return Snooze(60)


@job(kind="th.retries")
async def retries() -> None:
    raise Retry(60)


@job(kind="th.fails")
async def fails() -> None:
    raise Fail("no such customer")


@job(kind="th.who")
async def who() -> str:
    return tenant.get()


@job(kind="th.sync")
def in_a_thread() -> None:
    second.later_sync(7)


@job(kind="th.locked", lock=Lock(key="th-key"))
async def locked(number: int) -> None:
    DID.append(("locked", number))


@job(kind="th.asks")
async def asks_for_another() -> None:
    handle = await second.later(1)
    await handle.result()


async def index_user(event: Event) -> None:
    DID.append(("indexed", event.attributes["id"]))


@job(kind="th.report")
async def report() -> None:
    DID.append(("reported", current_job().tick))


EVERY_MORNING = Cron("0 9 * * *", report, name="th-report", missed="one")
