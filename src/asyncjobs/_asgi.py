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
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


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
            farewell = await self._inner(scope, startup, receive, send)
        if farewell is not None:
            await send(farewell)

    async def _inner(
        self, scope: MutableMapping[str, Any], startup: Message, receive: Receive, send: Send
    ) -> Message | None:
        """Run the application's own lifespan; what it says at the end, to be passed on when the jobs are down."""
        first = [startup]
        answers: list[Message] = []

        async def hear() -> Message:
            return first.pop() if first else await receive()

        async def say(message: Message) -> None:
            answers.append(message)
            if message["type"].startswith("lifespan.startup"):
                await send(message)

        try:
            await self.app(scope, hear, say)
        except Exception as error:
            if answers:
                raise
            logger.debug("the application has no lifespan of its own: %r", error)
        if not answers:  # it does not know the protocol: answer for it
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return {"type": "lifespan.shutdown.complete"}
        last = answers[-1]
        return last if last["type"].startswith("lifespan.shutdown") else None
