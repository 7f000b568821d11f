"""Jobs in real web processes: uvicorn, its signals, its workers, its way of starting and stopping."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import asyncpg
import attrs
import httpx
import pytest

from asyncjobs import Job, Jobs, JobState, job
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from asyncjobs.embedded.watch import Postmaster
from tests.features import need
from tests.waiting import eventually, eventually_async

pytestmark = pytest.mark.timeout(90)

S = JobState

APPLICATION = '''
import asyncio, logging, os
from contextlib import asynccontextmanager

from asyncjobs import Jobs, job

logging.basicConfig(level="INFO")
jobs = Jobs(os.environ["DSN"], slots=2, shutdown_timeout=float(os.environ.get("BUDGET", "1")))


@job(kind="served:where")
async def where() -> int:
    await asyncio.sleep(0.1)
    return os.getpid()


@job(kind="served:hold")
async def hold() -> None:
    await asyncio.sleep(3600)


async def answer(path: str) -> object:
    match path:
        case "/where":
            return await (await where.later()).result(timeout=20)
        case "/hold":
            return (await hold.later()).id
        case "/degraded":
            return jobs.is_degraded
    return "pong"


async def web(scope, receive, send):
    """The whole application, without a lifespan."""
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']} here")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"].startswith("/stream"):
        await receive()
        gone = asyncio.create_task(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
    body = repr(await answer("/" + scope["path"].strip("/"))).encode()
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def mine(app):
    print("mine is up", flush=True)
    yield
    print("mine is down", flush=True)


@asynccontextmanager
async def own(app):
    async with jobs.running():
        yield


def in_fastapi():
    from fastapi import FastAPI

    app = FastAPI(lifespan=jobs.lifespan)
    app.mount("/", web)
    return app


def in_starlette():
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/", web)], lifespan=jobs.wrap(mine))


def in_ones_own():
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/", web)], lifespan=own)


def in_litestar():
    from litestar import Litestar, asgi
    from litestar.types import Receive, Scope, Send

    @asgi("/", is_mount=True, copy_scope=True)
    async def all_of_it(scope: Scope, receive: Receive, send: Send) -> None:
        await web(scope, receive, send)

    return Litestar(route_handlers=[all_of_it], lifespan=[jobs.lifespan])


def around_anything():
    return jobs.asgi(web)
'''
BUDGET = 1.0
WAYS = ["in_fastapi", "in_starlette", "in_ones_own", "in_litestar", "around_anything"]


@attrs.define
class Server:
    """uvicorn, in a process of its own."""

    process: subprocess.Popen[str]
    lines: list[str] = attrs.field(factory=list)
    reader: threading.Thread = attrs.field(init=False)

    @classmethod
    def start(cls, folder: Path, way: str, dsn: str, *options: str, **env: str) -> Server:
        (folder / "application.py").write_text(APPLICATION)
        command = [
            "uvicorn",
            f"application:{way}",
            "--factory",
            "--port",
            "0",
            "--app-dir",
            str(folder),
            *options,
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "DSN": dsn, **env},
            start_new_session=True,  # so that its workers are killed with it
        )
        self = cls(process)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)  # line by line, as they come

    @property
    def log(self) -> str:
        return "".join(self.lines)

    async def says(self, words: str) -> re.Match[str]:
        """Wait for *words* in its log."""

        async def said() -> re.Match[str] | None:
            found = re.search(words, self.log)
            if found is None and self.process.poll() is not None:
                pytest.fail(f"it ended before it said {words!r}:\n{self.log}")
            return found

        found = await eventually_async(said, within=30)
        assert found is not None
        return found

    async def client(self) -> httpx.AsyncClient:
        """A client, once it serves."""
        url = (await self.says(r"running on (http://[\d.:]+)"))[1]
        return httpx.AsyncClient(base_url=url, timeout=30)

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, within: float = 15) -> int:
        return await asyncio.to_thread(self.process.wait, timeout=within)

    def kill(self) -> None:
        # The group, not the server alone: workers that outlive it keep its log open, and who reads that never ends.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(timeout=20)
        assert not self.reader.is_alive(), "somebody still writes to the log of a server that was killed"
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers; none is left."""
    started: list[Server] = []

    def start(way: str, *options: str, dsn: str = dsn, **env: str) -> Server:
        started.append(Server.start(tmp_path, way, dsn, *options, **env))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@job(kind="served:where")
async def where() -> int:
    raise NotImplementedError  # it runs in the server


async def look_at(dsn: str, job_id: int) -> Job:
    async with Jobs(dsn) as jobs:
        return await jobs.handle(job_id).job()


async def is_untouched(dsn: str, job_id: int) -> bool:
    found = await look_at(dsn, job_id)
    return (found.state, found.attempt, found.crashes, found.errors) == (S.AVAILABLE, 0, 0, ())


async def is_running(dsn: str, job_id: int) -> bool:
    return (await look_at(dsn, job_id)).state is S.RUNNING


async def runners(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    count: int = await connection.fetchval("select count(*) from asyncjobs.runners")
    await connection.close()
    return count


@pytest.mark.failure_mode("F30", "F32", "F37")
@pytest.mark.parametrize("way", WAYS)
async def test_jobs_run_in_the_web_process_and_stop_with_it(dsn: str, serve: Any, way: str) -> None:
    """A job runs in the process that served the request; SIGTERM ends both in time, and the unfinished job goes back."""
    server = serve(way)
    async with await server.client() as client:
        assert int((await client.get("/where")).text) == server.process.pid
        held = int((await client.get("/hold")).text)
        await eventually_async(lambda: is_running(dsn, held))
    server.tell(signal.SIGTERM)
    started = time.monotonic()
    assert await server.ended() == -signal.SIGTERM
    assert time.monotonic() - started < BUDGET + 1.5
    await server_said(server, "Application shutdown complete")
    if way == "in_starlette":
        assert server.log.index("mine is up") < server.log.index("mine is down")
    assert "Traceback" not in server.log
    assert await is_untouched(dsn, held)
    assert await runners(dsn) == 0


async def server_said(server: Server, words: str) -> None:
    """What an ended process has said may take a moment to arrive."""

    async def said() -> bool:
        return words in server.log

    await eventually_async(said, within=5)


@pytest.mark.failure_mode("F34")
async def test_every_process_of_a_server_runs_jobs(dsn: str, serve: Any) -> None:
    """`--workers 2`: both processes run jobs, and both stop with the server."""
    server = serve("in_fastapi", "--workers", "2")
    await server.says(r"(?s)startup complete.*startup complete")
    async with Jobs(dsn) as jobs, await server.client() as client:
        assert (await client.get("/ping")).text == "'pong'"

        async def both_run_jobs() -> bool:
            return await runners(dsn) == 2

        await eventually_async(both_run_jobs)
        pids: set[int] = set()

        async def both_ran_some() -> bool:
            handles = await jobs.enqueue_many([where.prepare() for _ in range(12)])
            pids.update([await handle.result(timeout=30) for handle in handles])
            return len(pids) == 2

        await eventually_async(both_ran_some)
        held = [int((await client.get("/hold")).text) for _ in range(3)]
    server.tell(signal.SIGTERM)
    await server.ended()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert "Traceback" not in server.log
    assert all([await is_untouched(dsn, each) for each in held])
    assert await runners(dsn) == 0


@pytest.mark.parametrize("way", ["in_fastapi", "around_anything"])
async def test_a_missing_schema_ends_the_server(database: str, serve: Any, way: str) -> None:
    """Better no server than one without jobs: it exits with an error, and says which command is missing."""
    server = serve(way, dsn=database)
    assert await server.ended() not in (0, None)
    await server_said(server, "python -m asyncjobs migrate")
    await server_said(server, "Application startup failed")


def options_for(loop: str) -> list[str]:
    if loop == "uvloop":
        need("uvloop", importlib.util.find_spec("uvloop"))
    return ["--loop", loop]


@attrs.define
class Stream:
    """A request that does not end."""

    client: httpx.AsyncClient
    opened: asyncio.Event = attrs.field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        async with self.client.stream("GET", "/stream") as response:
            async for _ in response.aiter_raw():
                self.opened.set()

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._read())
        await self.opened.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.mark.failure_mode("F29")
@pytest.mark.parametrize(("how", "loop"), [(signal.SIGTERM, "asyncio"), (signal.SIGINT, "uvloop")])
async def test_told_to_stop_it_claims_nothing_more_while_a_stream_is_open(
    dsn: str, serve: Any, how: signal.Signals, loop: str
) -> None:
    """The server waits for its requests, the runner does not: it lets others have the jobs from the signal on."""
    server = serve("in_fastapi", *options_for(loop))
    async with await server.client() as client, Jobs(dsn) as jobs:
        await client.get("/where")
        async with Stream(client):
            held = int((await client.get("/hold")).text)
            await eventually_async(lambda: is_running(dsn, held))
            server.tell(how)
            await server.says("Waiting for connections to close")
            handles = await jobs.enqueue_many([where.prepare() for _ in range(5)])
            await asyncio.sleep(0.4)
            assert {await handle.status() for handle in handles} == {S.AVAILABLE}
            assert server.process.poll() is None
            assert await is_running(dsn, held)
        assert await server.ended() == {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0}[how]
    assert await is_untouched(dsn, held)
    assert "Traceback" not in server.log


@pytest.mark.failure_mode("F31")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_second_ctrl_c_skips_the_lifespan_and_burns_nothing(dsn: str, serve: Any, loop: str) -> None:
    """uvicorn then ends without a word to our lifespan; its jobs go back all the same."""
    server = serve("in_fastapi", *options_for(loop), BUDGET="60")
    async with await server.client() as client, Stream(client):
        held = int((await client.get("/hold")).text)
        await eventually_async(lambda: is_running(dsn, held))
        server.tell(signal.SIGINT)
        await server.says("Waiting for connections to close")
        server.tell(signal.SIGINT)
        started = time.monotonic()
        await server.ended()
        assert time.monotonic() - started < 5
        assert "Application shutdown complete" not in server.log
        assert await is_untouched(dsn, held), server.log


@pytest.mark.failure_mode("F31")
async def test_a_second_ctrl_c_ends_the_drain(dsn: str, serve: Any) -> None:
    """uvicorn has nothing to say to a lifespan that is shutting down; the runner has heard it itself."""
    server = serve("in_fastapi", BUDGET="60")
    async with await server.client() as client:
        held = int((await client.get("/hold")).text)
        await eventually_async(lambda: is_running(dsn, held))
    server.tell(signal.SIGINT)
    await server.says("Waiting for application shutdown")
    await asyncio.sleep(0.3)
    assert server.process.poll() is None
    server.tell(signal.SIGINT)
    await server.ended(within=5)
    assert await is_untouched(dsn, held), server.log


@pytest.fixture
async def stoppable() -> AsyncIterator[tuple[Embedded, str]]:
    """A Postgres that may be stopped, and a database on it."""
    embedded = Embedded(settings={**TEST_SETTINGS, "synchronous_commit": "on"}, keep=False)
    embedded.start()
    dsn = embedded.dsn()
    await Jobs(dsn).migrate()
    yield embedded, dsn
    embedded.stop()


def stop(embedded: Embedded) -> None:
    postmaster = Postmaster.of(embedded.dir)
    assert postmaster is not None
    os.kill(postmaster.pid, signal.SIGINT)
    eventually(lambda: not postmaster.lives())


@pytest.mark.failure_mode("F22", "F35")
async def test_requests_are_served_while_postgres_is_away(
    serve: Any, stoppable: tuple[Embedded, str]
) -> None:
    """Started without Postgres, and left by it: the application serves on, says it is degraded, and recovers by itself."""
    embedded, dsn = stoppable
    await asyncio.to_thread(stop, embedded)
    server = serve("in_fastapi", dsn=dsn)
    async with await server.client() as client:

        async def says_degraded(expected: bool) -> bool:
            started = time.monotonic()
            said = (await client.get("/degraded")).text
            assert time.monotonic() - started < 1
            return bool(said == repr(expected))

        for _ in range(2):
            await eventually_async(lambda: says_degraded(True))
            assert (await client.get("/ping")).text == "'pong'"
            await asyncio.to_thread(embedded.start)
            await eventually_async(lambda: says_degraded(False), within=5)
            assert int((await client.get("/where")).text) == server.process.pid
            await asyncio.to_thread(stop, embedded)
    server.tell(signal.SIGTERM)
    assert await server.ended(within=5) == -signal.SIGTERM
    await asyncio.to_thread(embedded.start)
