"""A connection that knows the statements of one schema: what every function of the store takes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from asyncjobs._store.connection import Connection
from asyncjobs._store.statements import statements


@attrs.frozen
class Session:
    """Runs statements by name, on whatever connection it was given."""

    connection: Connection
    schema: str

    async def fetch(self, statement: str, *args: Any) -> Sequence[Any]:
        """The rows of *statement*."""
        return await self.connection.fetch(statements(self.schema)[statement], *args)

    async def fetchrow(self, statement: str, *args: Any) -> Any:
        """The first row of *statement*, or None."""
        return await self.connection.fetchrow(statements(self.schema)[statement], *args)

    async def fetchval(self, statement: str, *args: Any) -> Any:
        """The first value of *statement*, or None."""
        return await self.connection.fetchval(statements(self.schema)[statement], *args)

    async def execute(self, statement: str, *args: Any) -> None:
        """Run *statement* for what it does."""
        await self.connection.execute(statements(self.schema)[statement], *args)
