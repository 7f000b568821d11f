"""`Jobs`: an application's jobs on one database. Settings, wired; the parts are below."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Self

import anyio
import attrs

from asyncjobs._app.bound import On
from asyncjobs._app.given import checked_guard, source_of
from asyncjobs._app.outside import FromOutside
from asyncjobs._asgi import ASGIApp, Lifespan, StatefulLifespan, Wrapped, around
from asyncjobs._bus.events import current_event
from asyncjobs._define import registry
from asyncjobs._define.enqueueing import codec_of
from asyncjobs._define.schedules import Repeating, check_schedules
from asyncjobs._engine.around import Around
from asyncjobs._engine.inline import run_now
from asyncjobs._engine.slots import Queues
from asyncjobs._engine.supply import missing
from asyncjobs._engine.telling import MOST_TRACEBACK
from asyncjobs._enqueue import ambient
from asyncjobs._enqueue.carried import Carried, carried_by_name
from asyncjobs._enqueue.middleware import layers
from asyncjobs._guard.blocked import Blocked
from asyncjobs._guard.guard import Guard
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._model.durations import Duration, seconds
from asyncjobs._model.elsewhere import OF_JOBS, SaysOurs
from asyncjobs._model.events import Event
from asyncjobs._model.job import NewJob
from asyncjobs._model.modes import Modes, modes_by_hand
from asyncjobs._model.options import When, check_name, check_when
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._model.queues import queues as registered_queues
from asyncjobs._model.urgency import Slots
from asyncjobs._runner.runner import Runner, Settings
from asyncjobs._runner.serving import Serving, rhythm
from asyncjobs._runner.supervisor import Supervisor
from asyncjobs._schedule.schedules import Schedules
from asyncjobs._schedule.ticker import Declared
from asyncjobs._store.foreign import is_sync
from asyncjobs._store.migrate import check_schema_version, migrate, migration_sql
from asyncjobs._store.opening import Connect
from asyncjobs._store.statements import DEFAULT_SCHEMA, check_schema
from asyncjobs._upkeep.janitor import Retention
from asyncjobs.errors import DatabaseUnavailable, InvalidOption, MisusedJobs, WhichJobs

logger = logging.getLogger("asyncjobs")


class Jobs(SaysOurs, FromOutside):
    """An application's jobs.

    One of *dsn*, *pool* (asyncpg) and *engine* (SQLAlchemy's AsyncEngine) says where. *queues* gives each queue served its
    slots (those with None share *slots*); without it every queue is served, by *slots* slots in all (20). *queues* may also be
    a registry: then exactly its queues are served. *slots* may say which priorities each takes: "10,30,50,any,any,any".
    *min_priority* and *max_priority* bound what this process runs. Of the slots that queues share, *reserved* take them in
    turns, whatever their weights. *connect* opens
    the runner's own connections, where passwords rotate; one of them on an event loop of the keeper's own. *provide* makes
    what jobs depend on. *middleware* is around each enqueue and each run, the outermost first, and *context* travels from
    one to the other. No attempt takes longer than *timeout*, unless its kind may; *run* says when jobs run, as the option of
    that name; *transactional*: what would not join a transaction of its caller's is refused; *traceback_limit* characters
    are kept of what failed it. *schedules* repeat: those of an *application*, where several share a database. *heartbeat*:
    every minute is an event; those missed in the time it says are made up for. *keep* and *keep_failed* say how long
    finished jobs stay; *shutdown_timeout* is the most time stopping takes; *payload_limit* is in bytes of JSON. *guard* says
    how jobs give way to requests. Durations are timedeltas or seconds. What works with the database is found out by trying
    (`modes`); *listen* decides it by hand: False needs no session of its own, as behind a transaction pooler, and jobs are
    polled for.
    """

    _elsewhere = OF_JOBS

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: Any = None,
        engine: Any = None,
        connect: Connect | None = None,
        queues: Queues | QueueRegistry | None = None,
        slots: Slots | None = None,
        min_priority: int | None = None,
        max_priority: int | None = None,
        reserved: int = 1,
        poll: Duration | None = None,
        provide: Mapping[Any, Callable[[], Any]] | None = None,
        schedules: Iterable[Repeating] | None = None,
        application: str = "default",
        heartbeat: Duration | None = None,
        middleware: Iterable[Any] = (),
        context: Iterable[ContextVar[Any] | Carried] = (),
        timeout: Duration | None = None,
        run: When = "later",
        transactional: bool = False,
        traceback_limit: int = MOST_TRACEBACK,
        schema: str = DEFAULT_SCHEMA,
        keep: Duration = 24 * 3600,
        keep_failed: Duration = 30 * 24 * 3600,
        shutdown_timeout: Duration = 8,
        payload_limit: int = 1_000_000,
        listen: bool | None = None,
        vigilance: Vigilance | None = None,
        guard: Guard | None = Guard(),  # noqa: B008 -- frozen
    ) -> None:
        self._own_source = source = source_of(
            dsn, pool, engine, connect, pooled=None if listen is None else not listen
        )
        super().__init__(source, check_schema(schema), payload_limit=payload_limit, listen=listen)
        self.registry = queues if isinstance(queues, QueueRegistry) else registered_queues
        self._serving = Serving(
            queues=queues,
            slots=slots,
            min_priority=min_priority,
            max_priority=max_priority,
            reserved=reserved,
            registry=self.registry,
        )
        self._undeclared.served = self._serving.named
        self._provide = self.provided = {Event: current_event, **(provide or {})}
        self.application = check_name(application, "application")
        self._around = Around(
            middleware=layers(middleware),
            carried=carried_by_name(context),
            timeout=None if timeout is None else seconds(timeout, "timeout"),
            traceback_limit=traceback_limit,
        )
        self.middleware, self.carried = self._around.middleware, self._around.carried
        check_when(run)
        self.run = None if run == "later" else run
        self.transactional = transactional
        self._settings = Settings(
            pools=self._serving.pools,
            rhythm=rhythm(poll),
            provide=self._provide,
            around=self._around,
            retention=Retention(seconds(keep, "keep"), seconds(keep_failed, "keep_failed")),
            modes=modes_by_hand(listen),
            vigilance=vigilance or Vigilance(),
            guard=checked_guard(guard),
            shutdown=seconds(shutdown_timeout, "shutdown_timeout"),
            beside=(self.subscribe_always, *self.heartbeats(heartbeat)),
            schedules=Declared(
                None if schedules is None else check_schedules(schedules),
                self.application,
            ),
        )
        self._opened: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._bindings: list[AbstractAsyncContextManager[Any]] = []
        self._supervisor: Supervisor | None = None

    def __repr__(self) -> str:
        return f"<Jobs {self._own_source!r} schema {self.schema!r}>"

    # Opening and running.

    async def __aenter__(self) -> Self:
        """Enqueue, and run nothing."""
        opening = self._open()
        await opening.__aenter__()
        self._bindings.append(opening)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._bindings.pop().__aexit__(None, None, None)

    @asynccontextmanager
    async def running(
        self,
        *,
        queues: Queues | None = None,
        slots: Slots | None = None,
        min_priority: int | None = None,
        max_priority: int | None = None,
        poll: Duration | None = None,
        name: str | None = None,
        standalone: bool = False,
    ) -> AsyncIterator[Jobs]:
        """Enqueue and run jobs. Postgres may be down: they run as soon as it is back.

        *queues*, *slots*, *min_priority*, *max_priority* and *poll* stand in, this once, for those the Jobs was made with.
        *name*: in the list of runners, instead of host:pid. *standalone*: this process serves no requests, so that jobs give
        way to nothing, and kinds of placement "standalone" run here too. Raises SchemaMissing, SchemaTooOld or SchemaTooNew,
        InvalidOption for a dependency nobody provides, and InvalidInput for a schedule's inputs that cannot be stored.
        """
        settings = self._settings_for(queues, slots, min_priority, max_priority)
        if poll is not None:
            settings = attrs.evolve(settings, rhythm=rhythm(poll))
        if name is not None:
            settings = attrs.evolve(settings, name=check_name(name, "name"))
        if standalone:
            settings = attrs.evolve(settings, standalone=True, kinds=registry.known_kinds)
        self._check_provided()
        for each in self._settings.schedules.schedules or ():
            each.new_schedule(codec_of(self), self.registry)
        async with self._open():
            if self.is_staged:  # `testing.drain` runs jobs there
                yield self
                return
            await self._check_schema()
            await self.subscribe_now()
            self._supervisor = Supervisor(
                self,
                lambda: Runner(self, self._own_source, codec_of(self), settings),
                self._settings.shutdown,
            )
            try:
                async with self._supervisor.running():
                    yield self
            finally:
                self._supervisor = None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self._check_process()
        loop = asyncio.get_running_loop()
        if self.is_staged:
            yield
            return
        if self._opened is not None:
            raise MisusedJobs(
                f"{self!r} is open already{'' if self._opened[0] is loop else ' on another event loop'}; "
                "open it once, in the application's lifespan, and share it"
            )
        self._opened = (loop, os.getpid())
        ambient.opened(self)
        try:
            with ambient.bound(self):
                yield
        finally:
            ambient.closed(self)
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self.close_enqueuing()
            self._opened = None

    def _settings_for(
        self,
        queues: Queues | None,
        slots: Slots | None,
        min_priority: int | None = None,
        max_priority: int | None = None,
    ) -> Settings:
        serving = self._serving.instead(queues, slots, min_priority, max_priority)
        return attrs.evolve(self._settings, pools=serving.pools)

    def hurry(self) -> None:
        """Stopping, cancel the running jobs now instead of waiting for them; they go back to be run again."""
        if self._supervisor is not None:
            self._supervisor.hurry.set()

    def _check_provided(self) -> None:
        for definition in registry.definitions():
            for wanted in definition.dependencies():
                if wanted not in self._provide:
                    raise InvalidOption(f"{definition.kind} cannot run here: {missing(wanted)}")

    async def _check_schema(self) -> None:
        try:
            await self.ask(check_schema_version)
        except DatabaseUnavailable as error:
            logger.warning("starting without Postgres; jobs run when it is back: %s", error)

    async def store(self, jobs: Sequence[Any], on: Any, *, wake: bool = True) -> list[int]:
        if on is None or not is_sync(on):  # a sync connection needs no loop, and the Jobs need not be open
            self.check_open()
        return await super().store(jobs, on, wake=wake)

    async def store_unique(self, jobs: Sequence[Any], on: Any, *, wake: bool = True) -> list[Any]:
        if on is None or not is_sync(on):
            self.check_open()
        return await super().store_unique(jobs, on, wake=wake)

    def connection(self) -> Any:
        self.check_open()
        return super().connection()

    def loop(self) -> asyncio.AbstractEventLoop:
        if self._opened is None:
            raise WhichJobs(f"{self!r} is not open; enter `async with jobs:` or its lifespan first")
        self._check_process()
        return self._opened[0]

    async def run_now(self, job: NewJob, on: Any) -> int:
        return await run_now(self, job, on, codec=codec_of(self), provide=self._provide, around=self._around)

    def check_open(self) -> None:
        if self.loop() is not asyncio.get_running_loop():
            raise MisusedJobs(
                f"{self!r} is open on another event loop; enqueue on that one: from a thread with `….later_sync(…)`"
            )

    def _check_process(self) -> None:
        if self._opened is not None and self._opened[1] != os.getpid():
            raise MisusedJobs(
                f"this process was forked from one that had {self!r} open, and cannot use its connections; "
                "open it after the fork, in each process"
            )

    # In the web application.

    def lifespan(self, app: Any) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """`FastAPI(lifespan=jobs.lifespan)`; Starlette's too, and `Litestar(lifespan=[jobs.lifespan])`."""
        return around(self.running, _no_lifespan)(app)

    def wrap(self, lifespan: Lifespan) -> StatefulLifespan:
        """`Starlette(lifespan=jobs.wrap(mine))`: jobs run around the application's own lifespan."""
        return around(self.running, lifespan)

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """Any ASGI application, with jobs running in its lifespan."""
        return Wrapped(self.running, app)

    def on(self, connection: Any) -> On[Self]:
        """`async with jobs.on(session):` — what `later` enqueues below it joins the session's transaction."""
        return On(self, connection)

    @cached_property
    def schedules(self) -> Schedules:
        """What repeats: `await jobs.schedules.list()`, `create`, `pause`, `resume`, `delete`, `run_now`, `preview`."""
        return Schedules(self, self._schedules_changed)

    def _schedules_changed(self) -> None:
        if self._supervisor is not None:
            self._supervisor.runner.schedules_changed()

    async def work_off(self) -> None:
        """Wait until the runner of this Jobs has run what is due. Raises WhichJobs when none runs."""
        if self._supervisor is None:
            raise WhichJobs(f"{self!r} runs no jobs; enter `async with jobs.running():` first")
        await self._supervisor.runner.connected()
        while not self._supervisor.runner.is_idle:  # noqa: ASYNC110 -- a state of several parts, none of which could tell
            await asyncio.sleep(0.02)

    @property
    def served_queues(self) -> frozenset[str]:
        """The queues this Jobs was made to serve, by name."""
        return self._serving.named

    @property
    def is_degraded(self) -> bool:
        """Jobs should run here, and cannot: Postgres is away, or refuses. For a health check; requests are served all the same."""
        if self._supervisor is None:
            return False
        runner = self._supervisor.runner
        return not runner.is_connected or runner.cannot_claim

    def blockers(self) -> list[Blocked]:
        """Who blocked this process' event loop while jobs ran here, the latest last: jobs, or the application itself."""
        return [] if self._supervisor is None else list(self._supervisor.runner.blockers)

    @property
    def modes(self) -> Modes | None:
        """What the runner here relies on, and why: `liveness` and `wake`. None where none runs, or none was reached."""
        return None if self._supervisor is None else self._supervisor.runner.modes

    # The schema.

    async def migrate(self) -> list[str]:
        """Bring the database to the schema this version needs: the names of the migrations applied."""
        connection = await self._own_source.connect()
        try:
            return [migration.name for migration in await migrate(connection, self.schema)]
        finally:
            await connection.close()

    def migration_sql(self) -> str:
        """What `migrate` would run on an empty database, as a script."""
        return migration_sql(self.schema)


@asynccontextmanager
async def _no_lifespan(app: Any) -> AsyncIterator[None]:  # noqa: ARG001
    yield
