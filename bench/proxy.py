"""A way to Postgres on a port of this machine, each of whose connections can lose replies, or one of its ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

CLAIMS = b"with recursive lanes"
"""What only a claimer's connection says."""


@dataclass(eq=False)
class Line:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    said: bytes = b""  #: by the client
    loses_replies: bool = False
    is_dead: bool = False  #: nothing passes, in either direction

    def abort_client(self) -> None:
        """The client sees its connection reset; the server sees nothing."""
        self.client.transport.abort()

    @property
    def is_open(self) -> bool:
        return not self.client.transport.is_closing()


@dataclass(eq=False)
class Proxy:
    """All of them."""

    dsn: str
    lines: list[Line] = field(default_factory=list)
    is_dead: bool = False  #: new connections get nowhere either

    def claimers(self) -> list[Line]:
        """The open connections over which jobs are claimed."""
        return [line for line in self.lines if line.is_open and CLAIMS in line.said]

    def die(self) -> None:
        """The network is dead: nothing passes, and nobody is told."""
        self.is_dead = True
        for line in self.lines:
            line.is_dead = True

    def revive(self) -> None:
        """The network is back: new connections pass, those from before are found to be broken."""
        self.is_dead = False
        for line in self.lines:
            if line.is_dead:
                line.client.transport.abort()
                line.server.transport.abort()


@asynccontextmanager
async def proxy_to(dsn: str) -> AsyncIterator[Proxy]:
    """A way to the server of *dsn*."""
    pumps: set[asyncio.Task[None]] = set()

    async def forth(line: Line, client: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await client.read(65536):
                line.said += data
                if not line.is_dead:
                    line.server.write(data)
        if not line.client.transport.is_closing():  # it said goodbye: else the server is not to know
            line.server.close()

    async def back(line: Line, server: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await server.read(65536):
                if not line.loses_replies and not line.is_dead and line.is_open:
                    line.client.write(data)
        line.client.close()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, server = await _reach(dsn)
        line = Line(writer, server, is_dead=made.is_dead)
        made.lines.append(line)
        for pump in (forth(line, reader), back(line, theirs)):
            task = asyncio.create_task(pump)
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    listener = await asyncio.start_server(through, "127.0.0.1", 0)
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0] or "postgres"
    port = listener.sockets[0].getsockname()[1]
    made = Proxy(f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable")
    try:
        yield made
    finally:
        listener.close()
        for line in made.lines:
            line.client.transport.abort()
            line.server.transport.abort()
        for task in list(pumps):
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _reach(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    host = parts.hostname or query.get("host", ["127.0.0.1"])[0]
    port = parts.port or int(query.get("port", ["5432"])[0])
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)
