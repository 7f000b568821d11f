"""Where the machine plays: one database, a few connections, a clock that can be set, and eyes that see what is committed.

The clock is not in the product's SQL. On these connections `search_path` puts a schema before `pg_catalog` whose `now()`,
`statement_timestamp()` and `clock_timestamp()` add a shift, which is kept in a sequence: seen by every session at once, whatever
transaction it is in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from asyncjobs._store.chores import restore_ballast
from asyncjobs._store.listening import CANCEL, FINISHED, QUEUES, READY, channel
from asyncjobs._store.migrate import migrate
from asyncjobs._store.session import Session

T = TypeVar("T")

SESSIONS = 3
KEEPERS = 2
SCHEMA = "asyncjobs"
SUSPICIOUS = 0.25  #: seconds after which to look what a statement waits for
TOO_LONG = 20.0

CLOCK = """
create schema clock;
create sequence clock.shift minvalue -1000000000 start 0;
select setval('clock.shift', 0);
create function clock.shift() returns interval language sql volatile as
  $$ select last_value * interval '1 s' from clock.shift $$;
create function clock.now() returns timestamptz language sql stable as
  $$ select pg_catalog.now() + (select last_value from clock.shift) * interval '1 s' $$;
create function clock.statement_timestamp() returns timestamptz language sql stable as
  $$ select pg_catalog.statement_timestamp() + (select last_value from clock.shift) * interval '1 s' $$;
create function clock.clock_timestamp() returns timestamptz language sql volatile as
  $$ select pg_catalog.clock_timestamp() + (select last_value from clock.shift) * interval '1 s' $$;
create table public.effects (job bigint, token bigint);
"""

OWN_TIMES = """
select table_name, column_name from information_schema.columns
 where table_schema = $1 and column_default like '%now()'
"""

SEE = """
select (select json_agg(json_build_array(
          id, queue, kind, priority, state, runner, token, attempt, crashes, coalesce(jsonb_array_length(errors), 0),
          started_at is not null, awaited, cancel_requested, extract(epoch from scheduled_at) - $1::float8))
          from asyncjobs.live_jobs where id > 0) as live,
       (select json_agg(json_build_array(
          id, queue, kind, priority, state, runner, token, attempt, crashes, coalesce(jsonb_array_length(errors), 0),
          started_at is not null))
          from asyncjobs.finished_jobs) as finished,
       (select json_agg(json_build_array(incarnation, begun, begun_tokens)) from asyncjobs.runners) as runners,
       (select json_agg(name) from asyncjobs.queues where paused_at is not null) as paused,
       (select json_agg(json_build_array(job, token)) from public.effects) as effects
"""


class Waits(AssertionError):
    """A statement waits, though nothing should hold it up."""


class Stage:
    """A database to play on, again and again."""

    def __init__(self, dsn: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.dsn = dsn
        self.heard: list[tuple[str, str]] = []
        self.sent: dict[int, asyncio.Task[Any]] = {}
        self.run(self._open())

    def run(self, what: Awaitable[T]) -> T:
        """What *what* comes to. Waits when it waits for a row, which it should not."""
        return self.loop.run_until_complete(self._bounded(what))

    async def _bounded(self, what: Awaitable[T]) -> T:
        task = asyncio.ensure_future(what)
        end = self.loop.time() + TOO_LONG
        try:
            while not (await asyncio.wait({task}, timeout=SUSPICIOUS))[0]:
                if await self._waits_for_a_row() or self.loop.time() > end:
                    raise Waits
            return task.result()
        finally:
            task.cancel()

    async def _waits_for_a_row(self) -> bool:
        """A session, other than those that are meant to."""
        eyes = await asyncpg.connect(self.dsn)
        try:
            rows = await eyes.fetch(
                """select pid from pg_locks join pg_stat_activity using (pid)
                    where not granted and locktype in ('transactionid', 'tuple') and datname = current_database()"""
            )
        finally:
            await eyes.close(timeout=5)
        return bool({row[0] for row in rows} - {self.pids[nth] for nth in self.sent})

    async def _open(self) -> None:
        admin = await asyncpg.connect(self.dsn)
        await admin.execute(CLOCK)
        await admin.close()
        self.connections = [await self._connect() for _ in range(SESSIONS)]
        self.sessions = [Session(connection, SCHEMA) for connection in self.connections]
        self.pids = [connection.get_server_pid() for connection in self.connections]
        self.keepers = [Session(await self._connect(), SCHEMA) for _ in range(KEEPERS)]
        self.eyes = await self._connect()
        self.observer = Session(self.eyes, SCHEMA)
        self.idler = Session(
            await self._connect(), SCHEMA
        )  # apart, for a session's own announcement does not wake it
        await migrate(self.eyes, SCHEMA)
        for table, column in await self.eyes.fetch(OWN_TIMES, SCHEMA):
            await self.eyes.execute(f"alter table {SCHEMA}.{table} alter {column} set default clock.now()")
        for name in (READY, FINISHED, CANCEL, QUEUES):
            await self.eyes.add_listener(channel(SCHEMA, name), self._hear)

    async def _connect(self) -> Any:
        return await asyncpg.connect(
            self.dsn, server_settings={"search_path": "clock, pg_catalog, public", "jit": "off"}
        )

    def _hear(self, _: Any, __: int, where: str, payload: object) -> None:
        self.heard.append((where.partition(":")[2], str(payload)))

    def close(self) -> None:
        self.run(self._close())
        self.loop.close()

    async def _close(self) -> None:
        await self._clear()
        others = [session.connection for session in (*self.keepers, self.idler)]
        for connection in [*self.connections, self.eyes, *others]:
            await connection.close(timeout=5)

    async def clear(self) -> None:
        """As if nothing had ever happened here."""
        await self._clear()
        self.began = float(await self.eyes.fetchval("select extract(epoch from pg_catalog.now())"))
        self.heard.clear()

    async def _clear(self) -> None:
        for nth, connection in enumerate(self.connections):
            if nth not in self.sent and connection.is_in_transaction():
                await connection.execute("rollback")
        for task in self.sent.values():
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(task, 5)
        self.sent.clear()
        for connection in self.connections:
            if connection.is_in_transaction():
                await connection.execute("rollback")
        for each in (*self.keepers, self.idler):
            await each.connection.execute("select pg_advisory_unlock_all()")
        await self.eyes.execute(
            """
            delete from asyncjobs.live_jobs where id > 0; delete from asyncjobs.finished_jobs;
            delete from asyncjobs.runners; delete from asyncjobs.queues; delete from public.effects; update asyncjobs.solitude set job = null, token = null;
            select setval('clock.shift', 0);
            select setval(pg_get_serial_sequence('asyncjobs.live_jobs', 'id'), 1, false);
            """
        )

    async def mend(self) -> None:
        """What a broken statement did to the planner's ballast is undone."""
        await self.clear()
        await self.eyes.execute("delete from asyncjobs.live_jobs")
        await restore_ballast(self.observer)

    async def see(self) -> Any:
        """What is committed; what was notified of is in `heard` by then."""
        row = await self.eyes.fetchrow(SEE, self.began)
        return [json.loads(column or "[]") for column in row]

    async def set_clock(self, shift: int) -> None:
        await self.eyes.execute(f"select setval('clock.shift', {shift})")

    async def send(self, nth: int, statement: Callable[[Session], Awaitable[Any]]) -> bool:
        """Send a statement that will have to wait; False when it did not."""

        async def sent() -> Any:
            return await statement(self.sessions[nth])

        task = self.sent[nth] = asyncio.ensure_future(sent())
        waits = "select exists (select from pg_locks where pid = $1 and not granted)"
        while not task.done():
            if await self.eyes.fetchval(waits, self.pids[nth]):
                return True
        return False

    async def answer(self, nth: int) -> Any:
        """What the statement that waited says."""
        return await self.sent.pop(nth)

    async def advisory_locks(self) -> int:
        """How many advisory locks are held here, by anybody."""
        held: int = await self.eyes.fetchval(
            """select count(*) from pg_locks
                where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"""
        )
        return held

    async def idle_in_transaction(self) -> set[int]:
        """Connections that sit in a transaction, doing nothing."""
        rows = await self.eyes.fetch(
            "select pid from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'"
        )
        return {self.pids.index(row[0]) for row in rows if row[0] in self.pids}
