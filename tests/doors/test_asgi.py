"""Jobs in the lifespan of an application, by the protocol and in the frameworks, without a server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import FastAPI, Request
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import post as litestar_post
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from asyncjobs import Jobs, JobState, Later, SchemaMissing, WhichJobs, job
from tests.waiting import eventually_async

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@attrs.frozen
class Double(Later, kind="asgi:Double"):
    """A little work."""

    number: int

    async def call(self) -> int:
        return 2 * self.number


# The protocol


@attrs.define
class Host:
    """A server, as far as the lifespan protocol goes."""

    app: Any
    scope: dict[str, Any] = attrs.field(
        factory=lambda: {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    )
    said: list[Message] = attrs.field(factory=list)
    task: asyncio.Task[None] | None = None
    told: asyncio.Queue[Message] = attrs.field(factory=asyncio.Queue)
    heard: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def send(self, message: Message) -> None:
        self.said.append(message)
        self.heard.set()

    async def answer(self, kind: str) -> list[str]:
        """Tell the application to start up or shut down; everything it has answered by then, or when it ended."""
        if self.task is None:
            self.task = asyncio.create_task(self.app(self.scope, self.told.get, self.send))
        before = len(self.said)
        self.told.put_nowait({"type": f"lifespan.{kind}"})
        async with asyncio.timeout(10):
            while len(self.said) == before and not self.task.done():
                self.heard.clear()
                heard = asyncio.create_task(self.heard.wait())
                await asyncio.wait([heard, self.task], return_when=asyncio.FIRST_COMPLETED)
                heard.cancel()
        return self.words

    @property
    def words(self) -> list[str]:
        return [message["type"].removeprefix("lifespan.") for message in self.said]

    async def end(self) -> BaseException | None:
        """How the application's coroutine ended."""
        assert self.task is not None
        async with asyncio.timeout(10):
            await asyncio.wait([self.task])
        return self.task.exception()


diary: list[str] = []


@pytest.fixture(autouse=True)
def new_diary() -> None:
    diary.clear()


async def refuses(scope: Any, receive: Receive, send: Send) -> None:
    """As Django, and many a hand-written application."""
    if scope["type"] != "http":
        raise ValueError("can only handle http")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


async def ignores(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await refuses(scope, receive, send)


async def listens_and_refuses(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await refuses(scope, receive, send)


async def leaves_early(scope: Any, receive: Receive, send: Send) -> None:
    """Answers the startup, and is not there when it is told to shut down."""
    await receive()
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize("app", [refuses, ignores, listens_and_refuses, leaves_early])
async def test_an_application_that_knows_no_lifespan_is_given_one(dsn: str, app: Any) -> None:
    """`jobs.asgi` answers for it: jobs run from its startup to its shutdown."""
    jobs = Jobs(dsn)
    host = Host(jobs.asgi(app))
    assert await host.answer("startup") == ["startup.complete"]
    await asyncio.sleep(0.05)
    assert host.scope["state"]["jobs"] is jobs
    assert await (await Double(4).later("call", jobs=jobs)).result(timeout=10) == 8
    assert await host.answer("shutdown") == ["startup.complete", "shutdown.complete"]
    assert await host.end() is None
    with pytest.raises(WhichJobs):
        await Double(4).later("call", jobs=jobs)


async def test_requests_pass_through(dsn: str) -> None:
    """What is not the lifespan goes to the application as it came."""
    passed = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        passed.append((scope, receive, send))

    wrapped = Jobs(dsn).asgi(app)
    for kind in ("http", "websocket"):
        scope, receive, send = {"type": kind}, object(), object()
        await wrapped(scope, receive, send)
        assert passed[-1] == (scope, receive, send)


def living(jobs: Jobs, *, up: BaseException | None = None, down: BaseException | None = None) -> Any:
    """An application with a lifespan of its own, that enqueues when it starts and waits for it when it stops."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        handle = await Double(5).later("call", jobs=jobs)
        diary.append("up")
        if up is not None:
            await send({"type": "lifespan.startup.failed", "message": "sorry"})
            raise up
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        assert await handle.result(timeout=10) == 10
        diary.append("down")
        if down is not None:
            await send({"type": "lifespan.shutdown.failed", "message": "sorry"})
            raise down
        await send({"type": "lifespan.shutdown.complete"})

    return app


def is_open(jobs: Jobs) -> bool:
    return jobs._opened is not None


async def test_an_applications_own_lifespan_is_kept(dsn: str) -> None:
    """Jobs are up before it starts and down after it has stopped; the server hears the end when all is down."""
    jobs = Jobs(dsn)
    host = Host(jobs.asgi(living(jobs)))
    assert await host.answer("startup") == ["startup.complete"]
    assert diary == ["up"]
    assert await host.answer("shutdown") == ["startup.complete", "shutdown.complete"]
    assert diary == ["up", "down"]
    assert not is_open(jobs)
    assert await host.end() is None


async def test_an_application_that_cannot_start_says_so_itself(dsn: str) -> None:
    """Its own words reach the server, and the jobs stop."""
    jobs = Jobs(dsn)
    host = Host(jobs.asgi(living(jobs, up=OSError("no port"))))
    assert await host.answer("startup") == ["startup.failed"]
    assert host.said[0]["message"] == "sorry"
    assert isinstance(await host.end(), OSError)
    assert not is_open(jobs)


async def test_an_application_that_cannot_stop_says_so_itself(dsn: str) -> None:
    """Its own words reach the server, after the jobs have stopped."""
    jobs = Jobs(dsn)
    host = Host(jobs.asgi(living(jobs, down=OSError("stuck"))))
    await host.answer("startup")
    assert await host.answer("shutdown") == ["startup.complete", "shutdown.failed"]
    assert host.said[1]["message"] == "sorry"
    assert not is_open(jobs)
    assert isinstance(await host.end(), OSError)


async def test_a_lifespan_that_breaks_does_not_take_the_jobs_with_it(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server goes on serving after such a fault, so the jobs go on too; the fault is said."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise ZeroDivisionError

    jobs = Jobs(dsn)
    host = Host(jobs.asgi(app))
    await host.answer("startup")
    await asyncio.sleep(0.1)
    assert "ZeroDivisionError" in caplog.text
    assert await (await Double(6).later("call", jobs=jobs)).result(timeout=10) == 12
    assert await host.answer("shutdown") == ["startup.complete", "shutdown.complete"]
    assert not is_open(jobs)
    assert await host.end() is None


async def test_jobs_that_cannot_start_keep_the_application_from_starting(database: str) -> None:
    """A missing schema is told to the server in our words; the application is never asked."""
    host = Host(Jobs(database).asgi(living(Jobs(database))))
    assert await host.answer("startup") == ["startup.failed"]
    assert "has no schema 'asyncjobs'" in host.said[0]["message"]
    assert "python -m asyncjobs migrate" in host.said[0]["message"]
    assert await host.end() is None
    assert diary == []


async def test_a_server_that_keeps_no_state(dsn: str) -> None:
    """`state` is an extension of the protocol: without it jobs run all the same."""
    host = Host(Jobs(dsn).asgi(refuses), scope={"type": "lifespan"})
    assert await host.answer("startup") == ["startup.complete"]
    assert await host.answer("shutdown") == ["startup.complete", "shutdown.complete"]


@pytest.mark.failure_mode("F38")
async def test_a_server_that_gives_up_on_the_lifespan(dsn: str) -> None:
    """Cancelled in the middle, as asyncio.run does when a server ends without a shutdown, everything is closed."""
    jobs = Jobs(dsn)
    host = Host(jobs.asgi(refuses))
    await host.answer("startup")
    assert host.task is not None
    host.task.cancel()
    await asyncio.wait([host.task])
    assert host.task.cancelled()
    assert not is_open(jobs)


# The frameworks


@asynccontextmanager
async def mine(app: Any) -> AsyncIterator[dict[str, str]]:
    diary.append("up")
    yield {"mine": "kept"}
    diary.append("down")


@asynccontextmanager
async def stateless(app: Any) -> AsyncIterator[None]:
    diary.append("up")
    yield
    diary.append("down")


async def enqueue(number: int) -> int:
    """What a request does: no Jobs is named, there is one."""
    result: int = await (await Double(number).later("call")).result(timeout=10)
    return result


def fastapi(**given: Any) -> FastAPI:
    app = FastAPI(**given)

    @app.post("/double/{number}")
    async def double(number: int, request: Request) -> dict[str, Any]:
        return {"result": await enqueue(number), "state": sorted(request.state._state)}

    return app


def starlette(**given: Any) -> Starlette:
    async def double(request: StarletteRequest) -> JSONResponse:
        number = int(request.path_params["number"])
        return JSONResponse({"result": await enqueue(number), "state": sorted(request.state._state)})

    return Starlette(routes=[Route("/double/{number}", double, methods=["POST"])], **given)


def litestar(**given: Any) -> Litestar:
    @litestar_post("/double/{number:int}", status_code=200)
    async def double(request: LitestarRequest[Any, Any, Any]) -> dict[str, Any]:
        return {"result": await enqueue(request.path_params["number"]), "state": []}

    return Litestar(route_handlers=[double], **given)


def running_inside(jobs: Jobs) -> Any:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        diary.append("up")
        async with jobs.running():
            yield
        diary.append("down")

    return lifespan


WAYS: dict[str, tuple[Callable[[Jobs], Any], list[str], bool]] = {
    "FastAPI(lifespan=jobs.lifespan)": (lambda jobs: fastapi(lifespan=jobs.lifespan), ["jobs"], False),
    "FastAPI(lifespan=jobs.wrap(mine))": (
        lambda jobs: fastapi(lifespan=jobs.wrap(mine)),
        ["jobs", "mine"],
        True,
    ),
    "FastAPI, jobs.running()": (lambda jobs: fastapi(lifespan=running_inside(jobs)), [], True),
    "jobs.asgi(FastAPI())": (lambda jobs: jobs.asgi(fastapi()), ["jobs"], False),
    "Starlette(lifespan=jobs.lifespan)": (lambda jobs: starlette(lifespan=jobs.lifespan), ["jobs"], False),
    "Starlette(lifespan=jobs.wrap(mine))": (
        lambda jobs: starlette(lifespan=jobs.wrap(mine)),
        ["jobs", "mine"],
        True,
    ),
    "Starlette, a lifespan without state": (
        lambda jobs: starlette(lifespan=jobs.wrap(stateless)),
        ["jobs"],
        True,
    ),
    "jobs.asgi(Starlette(lifespan=mine))": (
        lambda jobs: jobs.asgi(starlette(lifespan=mine)),
        ["jobs", "mine"],
        True,
    ),
    "Middleware(jobs.asgi)": (lambda jobs: starlette(middleware=[Middleware(jobs.asgi)]), ["jobs"], False),
    "Litestar(lifespan=[jobs.lifespan])": (lambda jobs: litestar(lifespan=[jobs.lifespan]), [], False),
    "Litestar, and one of its own": (lambda jobs: litestar(lifespan=[jobs.lifespan, stateless]), [], True),
    "jobs.asgi(Litestar())": (lambda jobs: jobs.asgi(litestar()), [], False),
}


@pytest.mark.failure_mode("F37")
@pytest.mark.parametrize("way", WAYS)
async def test_jobs_run_in_the_lifespan_of_every_framework(dsn: str, way: str) -> None:
    """A request enqueues without naming a Jobs, and its job runs in the same process; what is mine is kept."""
    make, state, has_mine = WAYS[way]
    jobs = Jobs(dsn)
    async with (
        LifespanManager(make(jobs)) as manager,
        httpx.AsyncClient(transport=httpx.ASGITransport(manager.app), base_url="http://test") as client,
    ):
        answer = await client.post("/double/21")
        assert answer.json() == {"result": 42, "state": state}
        assert diary == (["up"] if has_mine else [])
    assert diary == (["up", "down"] if has_mine else [])
    assert not is_open(jobs)


@pytest.mark.failure_mode("F37")
async def test_a_lifespan_that_nobody_runs_is_said_by_the_first_enqueue(dsn: str) -> None:
    """Frameworks do not run the lifespan of a mounted application: no job is stored that nobody would run, and it is said."""
    jobs = Jobs(dsn)
    outer = FastAPI()
    outer.mount("/inner", fastapi(lifespan=jobs.lifespan))
    async with (
        LifespanManager(outer) as manager,
        httpx.AsyncClient(transport=httpx.ASGITransport(manager.app), base_url="http://test") as client,
    ):
        with pytest.raises(WhichJobs, match="lifespan"):
            await client.post("/inner/double/21")
    async with jobs:
        assert await jobs.list_jobs() == []


async def test_one_jobs_runs_again_after_it_has_stopped(dsn: str) -> None:
    """Test clients start and stop an application many times."""
    jobs = Jobs(dsn)
    for _ in range(2):
        async with LifespanManager(starlette(lifespan=jobs.lifespan)):
            assert await enqueue(1) == 2


@pytest.mark.parametrize("make", [fastapi, starlette])
async def test_a_missing_schema_keeps_an_application_from_starting(database: str, make: Any) -> None:
    """The lifespan raises what says which command to run."""
    with pytest.raises(SchemaMissing, match="python -m asyncjobs migrate"):
        async with LifespanManager(make(lifespan=Jobs(database).lifespan)):
            raise AssertionError


async def test_an_error_of_my_own_lifespan_is_mine(dsn: str) -> None:
    """Raised at the start or at the end, it reaches the server as it would without jobs, and the jobs are stopped."""

    @asynccontextmanager
    async def broken(app: Any) -> AsyncIterator[None]:
        if diary:
            raise OSError("at the start")
        diary.append("up")
        yield
        raise OSError("at the end")

    for when in ("at the end", "at the start"):
        jobs = Jobs(dsn)
        with pytest.raises(OSError, match=when):
            async with LifespanManager(starlette(lifespan=jobs.wrap(broken))):
                assert when == "at the end"
        assert not is_open(jobs)


# Threads


release = threading.Event()


@job(kind="asgi:block")
def block() -> None:
    release.wait(30)


@pytest.mark.failure_mode("F19")
async def test_blocking_jobs_do_not_hold_up_the_frameworks_sync_routes(dsn: str) -> None:
    """Sync jobs have threads of their own: with more of them blocked than anyio has threads, a `def` route answers."""
    release.clear()
    jobs = Jobs(dsn, slots=60, shutdown_timeout=2)
    app = FastAPI(lifespan=jobs.lifespan)

    @app.get("/sync")
    def sync() -> str:
        return threading.current_thread().name

    async with (
        LifespanManager(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        handles = await jobs.enqueue_many([block.prepare() for _ in range(50)])
        try:

            async def all_run() -> bool:
                return [await handle.status() for handle in handles].count(JobState.RUNNING) == 50

            await eventually_async(all_run)
            started = time.monotonic()
            answers = await asyncio.gather(*[client.get("/sync") for _ in range(20)])
            assert time.monotonic() - started < 2
            assert all("AnyIO" in answer.text for answer in answers)
        finally:
            release.set()
        for handle in handles:
            await handle.result(timeout=10)
