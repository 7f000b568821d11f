"""Jobs in the lifespan of a web application: FastAPI's, Starlette's and Litestar's, or the bare ASGI protocol."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

logger = logging.getLogger("asyncjobs")

Running = Callable[[], AbstractAsyncContextManager[Any]]
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
StatefulLifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[
    [Any, Any, Any], Awaitable[None]
]  # frameworks type scopes and messages each in their own way


def around(running: Running, inner: Lifespan) -> StatefulLifespan:
    """A lifespan in which jobs run, around *inner*: jobs are up first and down last; states are merged."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with running() as jobs, inner(app) as state:
            yield {"jobs": jobs, **(state or {})}

    return lifespan


class Wrapped:
    """An ASGI application in whose lifespan jobs run, whether or not it knows the lifespan protocol itself."""

    def __init__(self, running: Running, app: ASGIApp) -> None:
        self._running = running
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        startup = await receive()
        async with AsyncExitStack() as stack:
            try:
                jobs = await stack.enter_async_context(self._running())
            except Exception as error:
                # A raw exception would be read as "no lifespan here", and the server would serve without jobs.
                logger.exception("jobs cannot start")
                await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                return
            if "state" in scope:
                scope["state"]["jobs"] = jobs
            inner = _Inner(startup, receive, send)
            fault = await inner.live(self.app, scope)
        if inner.farewell is not None:
            await send(inner.farewell)
        if fault is not None:
            raise fault


class _Inner:
    """The lifespan of the application inside: what it hears and says passes through; what it leaves unsaid is said for it.

    Its last word is kept until the jobs are down.
    """

    def __init__(self, startup: Message, receive: Receive, send: Send) -> None:
        self._startup: Message | None = startup
        self._receive = receive
        self._send = send
        self._started = ""  #: how it answered the startup
        self._shutting_down = False
        self.farewell: Message | None = None

    async def hear(self) -> Message:
        startup, self._startup = self._startup, None
        if startup is not None:
            return startup
        message = await self._receive()
        self._shutting_down = True
        return message

    async def say(self, message: Message) -> None:
        if message["type"].startswith("lifespan.startup"):
            self._started = message["type"]
            await self._send(message)
        else:
            self.farewell = message

    async def live(self, app: ASGIApp, scope: MutableMapping[str, Any]) -> Exception | None:
        """Until the server shuts down, or the application could not start. What it raised, if the server is to know."""
        fault = None
        try:
            await app(scope, self.hear, self.say)
        except Exception as error:
            fault = error
        if self._started == "lifespan.startup.failed":
            return fault
        if not self._started:
            logger.info(
                "the application has no lifespan of its own%s", "" if fault is None else f": {fault!r}"
            )
            await self.say({"type": "lifespan.startup.complete"})
            fault = None
        if not self._shutting_down:  # the server goes on serving, so the jobs go on
            if fault is not None:
                logger.error("the application's lifespan broke off; its jobs run on", exc_info=fault)
                fault = None
            while not self._shutting_down:
                await self.hear()
        if self.farewell is None and fault is None:
            self.farewell = {"type": "lifespan.shutdown.complete"}
        return fault
