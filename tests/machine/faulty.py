"""Connections that fail where a seed says: refused, cut before a statement or after it, or slow.

Which fault hits a statement depends on the seed, the statement, and how often it was sent, and on nothing else: neither on the clock
nor on who came first. Each seed allows some faults and not others, because where everything fails little is reached.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

FAULTS = ("refused", "cut before", "reply lost", "late", "reply late")
SLOW = 0.3  #: seconds


class Faults:
    """What goes wrong, by a seed, until it is healed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        dice = random.Random(f"{seed}")
        self.allowed = [fault for fault in FAULTS if dice.random() < 0.6] or [dice.choice(FAULTS)]
        self.rate = dice.choice([0.02, 0.05, 0.15])
        self.healed = False
        self.sent: Counter[str] = Counter()
        self.told: list[str] = []  #: the faults there were

    def __repr__(self) -> str:
        return f"seed {self.seed}: {self.rate:.0%} of {', '.join(self.allowed)}"

    def at(self, point: str) -> tuple[str | None, float]:
        """The fault at this point, and a share to make use of."""
        self.sent[point] += 1
        dice = random.Random(f"{self.seed} {point} {self.sent[point]}")
        hit, share = dice.random() < self.rate, dice.random()
        possible = [fault for fault in self.allowed if (fault == "refused") == (point == "connect")]
        if self.healed or not hit or not possible:
            return None, share
        fault = dice.choice(possible)
        self.told.append(f"{fault}: {point} {self.sent[point]}")
        return fault, share

    def connect_to(self, dsn: str) -> Callable[[], Awaitable[Any]]:
        """For `Jobs(connect=…)`."""

        class Faulty(asyncpg.Connection):
            """A connection as any other, but for its faults."""

            async def execute(connection, query: str, *args: Any, **given: Any) -> Any:
                return await self._through(
                    connection, query, lambda: asyncpg.Connection.execute(connection, query, *args, **given)
                )

            async def fetch(connection, query: str, *args: Any, **given: Any) -> Any:
                return await self._through(
                    connection, query, lambda: asyncpg.Connection.fetch(connection, query, *args, **given)
                )

            async def fetchrow(connection, query: str, *args: Any, **given: Any) -> Any:
                return await self._through(
                    connection, query, lambda: asyncpg.Connection.fetchrow(connection, query, *args, **given)
                )

            async def fetchval(connection, query: str, *args: Any, **given: Any) -> Any:
                return await self._through(
                    connection, query, lambda: asyncpg.Connection.fetchval(connection, query, *args, **given)
                )

        async def connect() -> Any:
            fault, _ = self.at("connect")
            if fault:
                raise ConnectionRefusedError("nobody listens")
            return await asyncpg.connect(dsn, connection_class=Faulty)

        return connect

    async def _through(self, connection: Any, query: str, statement: Callable[[], Awaitable[Any]]) -> Any:
        fault, share = self.at(re.sub(r"\W+", " ", query)[:40])
        if fault == "late":
            await asyncio.sleep(share * SLOW)
        if fault == "cut before":
            connection.terminate()
        said = await statement()
        if fault == "reply late":
            await asyncio.sleep(share * SLOW)
        if fault == "reply lost":
            connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return said
