"""An event for every minute, whoever publishes it: `heartbeat_minutes`, exactly once however many processes there are.

Taking a minute and publishing it are one transaction, so a minute is neither lost nor told twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio

from asyncjobs._engine.link import Patience
from asyncjobs._store.bus import beat
from asyncjobs._store.connection import Connection
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source

HEARTBEAT = "heartbeat_minutes"

Publish = Callable[[Connection, dict[str, Any]], Awaitable[object]]


class Heart:
    """Publishes what minutes come, beside others that do the same."""

    def __init__(self, source: Source, schema: str, made_up_for: float, publish: Publish) -> None:
        self._source = source
        self._schema = schema
        self._made_up_for = made_up_for
        self._publish = publish

    async def run(self) -> None:
        """One minute after the other, for ever."""
        patience = Patience("the heartbeat")
        while True:
            try:
                seconds = await self.round()
                patience.succeeded()
            except Exception as error:
                await patience.wait_after(error)
            else:
                await anyio.sleep(seconds + 0.01)

    async def round(self) -> float:
        """Publish the minutes that are due: the seconds until the next."""
        async with self._source.connection() as connection:
            while True:
                async with connection.transaction():
                    minute, seconds = await beat(Session(connection, self._schema), self._made_up_for)
                    if minute is None:
                        return seconds
                    await self._publish(connection, of_minute(minute))


def of_minute(moment: datetime) -> dict[str, int]:
    """What is said of a minute: its parts, in UTC, and how many there were since 1970. Weeks begin on Sunday, which is 0."""
    at = moment.astimezone(UTC)
    minutes = int(at.timestamp()) // 60
    return {
        "epoch_seconds": minutes * 60,
        "epoch_minutes": minutes,
        "epoch_hours": minutes // 60,
        "epoch_days": minutes // (24 * 60),
        "minute": at.minute,
        "hour": at.hour,
        "day": at.day,
        "month": at.month,
        "year": at.year,
        "yday": at.timetuple().tm_yday,
        "wday": at.isoweekday() % 7,
    }
