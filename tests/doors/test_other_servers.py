"""Jobs in the lifespan of other servers than uvicorn, and of uvicorn when it starts its application anew."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from asyncjobs import Jobs, JobState
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from tests.doors.test_embedded import processes_of
from tests.doors.test_uvicorn import APPLICATION, Server, is_running, is_untouched, look_at, runners
from tests.features import need
from tests.waiting import eventually, eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

FACTORY = "\n\napp = in_fastapi()\n"

SERVERS: dict[str, tuple[str, Callable[[int], list[str]]]] = {
    "hypercorn": (
        "hypercorn",
        lambda port: ["-m", "hypercorn", "-b", f"127.0.0.1:{port}", "application:app"],
    ),
    "hypercorn, two workers": (
        "hypercorn",
        lambda port: ["-m", "hypercorn", "-w", "2", "-b", f"127.0.0.1:{port}", "application:app"],
    ),
    "hypercorn on uvloop": (
        "hypercorn",
        lambda port: ["-m", "hypercorn", "-k", "uvloop", "-b", f"127.0.0.1:{port}", "application:app"],
    ),
    "granian": (
        "granian",
        lambda port: ["-m", "granian", "--interface", "asgi", "--port", str(port), "application:app"],
    ),
    "granian on uvloop": (
        "granian",
        lambda port: [
            *("-m", "granian", "--interface", "asgi", "--loop", "uvloop"),
            *("--port", str(port), "application:app"),
        ],
    ),
    "gunicorn": (
        "gunicorn",
        lambda port: [
            *("-m", "gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-b", f"127.0.0.1:{port}"),
            "application:app",
        ],
    ),
    "uvicorn, three workers": (
        "uvicorn",
        lambda port: ["-m", "uvicorn", "--workers", "3", "--port", str(port), "application:app"],
    ),
}


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Any]:
    """Starts a server; none is left."""
    (tmp_path / "application.py").write_text(APPLICATION + FACTORY)
    started: list[Server] = []

    def begin(arguments: list[str]) -> Server:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "DSN": dsn, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
            start_new_session=True,
        )
        server = Server(process)
        threading.Thread(target=server._read, daemon=True).start()
        started.append(server)
        return server

    yield begin
    for server in started:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
        server.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


async def serves(server: Server, client: httpx.AsyncClient) -> None:
    """Wait until it answers."""

    async def answers() -> bool:
        if server.process.poll() is not None:
            pytest.fail(f"it ended:\n{server.log}")
        try:
            return (await client.get("/ping")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually_async(answers, within=60)


@pytest.mark.failure_mode("F34", "F37")
@pytest.mark.parametrize("which", SERVERS)
async def test_jobs_live_as_long_as_the_server(dsn: str, start: Any, which: str) -> None:
    """They run in a process of the server; told to stop it does, in time, and what has not ended goes back untouched."""
    package, arguments = SERVERS[which]
    need(package, importlib.util.find_spec(package))
    port = free_port()
    server = start(arguments(port))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        await serves(server, client)
        ran_in = int((await client.get("/where")).text)
        assert os.getpgid(ran_in) == server.process.pid
        held = [int((await client.get("/hold")).text) for _ in range(2)]

        async def all_run() -> bool:
            return all([await is_running(dsn, each) for each in held])

        await eventually_async(all_run)
    server.tell(signal.SIGTERM)
    await server.ended(within=30)
    assert all([await is_untouched(dsn, each) for each in held]), server.log
    assert await runners(dsn) == 0, server.log
    assert "Traceback" not in server.log


@pytest.mark.failure_mode("F33")
async def test_a_reload_gives_running_jobs_to_the_new_code(dsn: str, start: Any, tmp_path: Path) -> None:
    """The old process stops in time although a job runs, and the new one runs that job, with nothing on its record."""
    port = free_port()
    server = start(["-m", "uvicorn", "--reload", "--port", str(port), "application:app"])
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        await serves(server, client)
        before = int((await client.get("/where")).text)
        held = int((await client.get("/hold")).text)
        await eventually_async(lambda: is_running(dsn, held))
        (tmp_path / "application.py").write_text(
            APPLICATION.replace('return "pong"', 'return "new pong"') + FACTORY
        )

        async def is_new() -> bool:
            try:
                return (await client.get("/ping")).text == "'new pong'"
            except httpx.TransportError:
                return False

        await eventually_async(is_new, within=60)
        assert int((await client.get("/where")).text) != before

        async def runs_again() -> bool:
            return await is_running(dsn, held)

        await eventually_async(runs_again)
        job = await look_at(dsn, held)
        assert (job.state, job.attempt, job.crashes, job.errors) == (JobState.RUNNING, 1, 0, ())
    server.tell(signal.SIGTERM)
    await server.ended(within=30)
    assert await is_untouched(dsn, held), server.log


WITH_A_POSTGRES = """
import os
from contextlib import asynccontextmanager
from pathlib import Path

from asyncjobs import Jobs, job
from asyncjobs.embedded import TEST_SETTINGS, Embedded
from fastapi import FastAPI


@job(kind="served:pid")
async def pid() -> int:
    return os.getpid()


@asynccontextmanager
async def lifespan(app):
    with Embedded(dir=os.environ["DATA"], settings=TEST_SETTINGS).running() as dsn:
        jobs = Jobs(dsn)
        await jobs.migrate()
        async with jobs.running():
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/ping")
async def ping():
    return await (await pid.later()).result(timeout=20)
"""


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for data, which the server's user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="test-ends-"))
    folder.chmod(0o755)
    yield folder / "pg"
    eventually(lambda: not processes_of(folder))
    shutil.rmtree(folder)


@pytest.mark.failure_mode("F32", "F116")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_an_embedded_postgres_ends_with_the_server(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, how: signal.Signals
) -> None:
    """Told to stop or killed: nothing of Postgres is left, it was shut down in order, and its data are there again."""
    monkeypatch.setenv("DATA", str(data))
    (tmp_path / "application.py").write_text(WITH_A_POSTGRES)
    for _ in range(2):
        port = free_port()
        server = start(["-m", "uvicorn", "--port", str(port), "application:app"])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            await serves(server, client)
        server.tell(how)
        await server.ended(within=30)
        await asyncio.to_thread(eventually, lambda: not processes_of(data))
        log = (data / "log").read_text()
        assert log.rstrip().endswith("database system is shut down"), log
        assert "not properly shut down" not in log
    with Embedded(dir=data, settings=TEST_SETTINGS).running() as dsn:
        async with Jobs(dsn) as jobs:
            assert len(await jobs.list_jobs(states=["completed"])) == 2
