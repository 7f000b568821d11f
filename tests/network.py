"""A network between asyncjobs and Postgres that can be cut, slowed down, and that can swallow everything without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

import attrs


@attrs.define(eq=False)
class Network:
    """A way to Postgres on a port of this machine."""

    dsn: str  #: by this way
    _flows: asyncio.Event
    _ends: set[asyncio.StreamWriter]
    lag: Callable[[], float] = lambda: 0.0  #: seconds the next piece takes, in either direction

    def swallow(self) -> None:
        """From now nothing gets through, in either direction, and nobody is told."""
        self._flows.clear()

    def restore(self) -> None:
        """What was held back arrives."""
        self._flows.set()

    def cut(self) -> None:
        """Every connection breaks now; new ones may be made."""
        for end in self._ends:
            end.transport.abort()


@asynccontextmanager
async def network(dsn: str) -> AsyncIterator[Network]:
    """A way to the server of *dsn*."""
    flows = asyncio.Event()
    flows.set()
    ends: set[asyncio.StreamWriter] = set()
    pumps: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if lag := way.lag():
                    await asyncio.sleep(lag)
                await flows.wait()
                sink.write(data)
                await sink.drain()
        await flows.wait()
        sink.close()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await _reach(dsn)
        ends.update((writer, back))
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(pump(source, sink))
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    server = await asyncio.start_server(through, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(dsn)
    user = f"{parts.username}{f':{parts.password}' if parts.password else ''}"
    by_us = f"postgresql://{user}@127.0.0.1:{port}{parts.path}"
    way = Network(by_us, flows, ends)
    try:
        yield way
    finally:
        server.close()
        for end in ends:
            end.transport.abort()
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
