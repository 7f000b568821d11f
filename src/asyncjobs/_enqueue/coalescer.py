"""One statement for everybody who enqueues at the same time without a transaction of their own.

A commit costs far more than a row, so callers that arrive while a statement is under way go into the next one together.
No timer and no wait: a lone caller is sent at once. Measured with 50 callers: nine times one statement each.

Nobody waits for ever: connecting and storing have their limits, and what was not stored by then is said to be so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import attrs

from asyncjobs._model.job import NewJob
from asyncjobs._store.connection import abandon, is_closed
from asyncjobs._store.faults import is_bad_data, is_cancelled, is_lost, is_rolled_back, is_transient
from asyncjobs._store.intake import insert
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source
from asyncjobs.errors import DatabaseUnavailable, WrongConnection

logger = logging.getLogger("asyncjobs")

T = TypeVar("T")

AT_MOST = 1000  #: jobs in one statement
BYTES_AT_MOST = 8_000_000  #: of inputs in one statement, unless it is one caller's
ANSWER = 10.0  #: seconds; a statement of some milliseconds that takes longer means a dead network
CLOSE = 1.0  #: seconds to store what was ordered when everything is closed
TRIES = 5  #: of a statement that Postgres rolls back in favour of another


@attrs.define(eq=False)
class _Order:
    jobs: Sequence[NewJob]
    wake: bool
    ids: asyncio.Future[list[int]]


class Coalescer:
    """Stores jobs in transactions of their own, together."""

    def __init__(self, source: Source, schema: str, unclaimed: Callable[[Sequence[NewJob]], None]) -> None:
        self._source = source
        self._schema = schema
        self._unclaimed = unclaimed  #: told of jobs that were stored after their caller had been cancelled
        self._orders: deque[_Order] = deque()
        self._answer = Patience()
        self._busy = False  #: a statement is under way
        self._session: Session | None = None
        self._hold = AsyncExitStack()
        self._sender: asyncio.Task[None] | None = None
        self._letting_go: asyncio.TimerHandle | asyncio.Task[None] | None = None

    async def insert(self, jobs: Sequence[NewJob], *, wake: bool) -> list[int]:
        """Store *jobs*, all or none; their ids once they are committed."""
        if self._busy:
            order = _Order(jobs, wake, asyncio.get_running_loop().create_future())
            self._orders.append(order)
            return await order.ids
        self._busy = True
        try:
            # Alone: sent from here, for a task of its own would cost two turns of the loop.
            return await self._store(jobs, wake=wake)
        except _NotConnected as error:
            self._fail_all((), error.said)  # the others would wait for the same in vain
            raise error.said from error.said.__cause__
        finally:
            self._go_on()

    def _go_on(self) -> None:
        """Those who came meanwhile are sent by a task: cancelling one request must not take the others' jobs with it."""
        self._busy = bool(self._orders)
        if self._busy:
            self._sender = asyncio.create_task(self._send_all(), name="asyncjobs coalescer")
        elif self._session is not None and self._source.linger != float("inf"):
            self._let_go_later()

    async def _send_all(self) -> None:
        orders: list[_Order] = []
        try:
            while self._orders:
                orders = self._take()
                await self._send(orders)
        except asyncio.CancelledError:  # the loop is ending
            self._fail_all(
                orders, DatabaseUnavailable("the loop ended; whether the job was stored by then is not known")
            )
            raise
        finally:
            self._go_on()

    def _take(self) -> list[_Order]:
        """The next statement's orders. Who was cancelled while waiting has no job stored."""
        taken: list[_Order] = []
        count = size = 0
        while self._orders:
            order = self._orders[0]
            if order.ids.done():
                self._orders.popleft()
                continue
            count += len(order.jobs)
            size += sum(len(job.args) for job in order.jobs)
            if taken and (count > AT_MOST or size > BYTES_AT_MOST):
                break
            taken.append(self._orders.popleft())
        return taken

    async def _send(self, orders: Sequence[_Order]) -> None:
        if not orders:
            return
        try:
            jobs = [job for order in orders for job in order.jobs]
            ids = await self._store(jobs, wake=any(order.wake for order in orders))
        except _NotConnected as error:
            self._fail_all(orders, error.said)
        except Exception as error:
            if is_bad_data(error) and len(orders) > 1:  # one bad order must not take the others with it
                half = len(orders) // 2
                await self._send(orders[:half])
                await self._send(orders[half:])
            else:
                _fail(orders, error)
        else:
            for order in orders:
                mine, ids = ids[: len(order.jobs)], ids[len(order.jobs) :]
                if order.ids.done():
                    self._unclaimed(order.jobs)
                else:
                    order.ids.set_result(mine)

    async def close(self) -> None:
        """Send what was ordered, and give the connection back. Who cannot be served in time is told so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE):
                while self._busy:  # noqa: ASYNC110 -- an event would be one more thing for every single call to set
                    await asyncio.sleep(0.005)
        if self._busy:
            self._fail_all((), DatabaseUnavailable("the Jobs was closed before the job could be stored"))
            if self._session is not None:
                await abandon(self._session.connection)
        await self._stay()
        await self._let_go()
        self._answer.stop()

    def _fail_all(self, orders: Iterable[_Order], error: Exception) -> None:
        """Tell this to *orders*, and to all who wait behind them."""
        _fail([*orders, *self._orders], error)
        self._orders.clear()

    # The connection, held for as long as it is worth.

    async def _store(self, jobs: Sequence[NewJob], *, wake: bool) -> list[int]:
        """Store *jobs* in one statement. Raises errors that say whether it was done."""
        tries = 0
        while True:
            session = self._session
            if session is None or self._letting_go is not None or is_closed(session.connection):
                session = await self._held()
            try:
                return await self._answer.within(insert(session, jobs, wake=wake))
            except Exception as error:
                tries += 1
                if is_rolled_back(error) and tries < TRIES:
                    continue
                if is_transient(error) or is_closed(session.connection):
                    await abandon(session.connection)
                    await self._let_go()
                told = honest(error)
                if told is error:
                    raise
                raise told from error

    async def _held(self) -> Session:
        await self._stay()
        if self._session is not None and is_closed(self._session.connection):
            await self._let_go()
        if self._session is None:
            try:
                connection = await self._hold.enter_async_context(self._source.connection())
            except DatabaseUnavailable as error:
                raise _NotConnected(error) from None
            self._session = Session(connection, self._schema)
        return self._session

    async def _stay(self) -> None:
        """Do not let go of the connection after all; when it is too late, wait until it is gone."""
        letting_go, self._letting_go = self._letting_go, None
        if isinstance(letting_go, asyncio.TimerHandle):
            letting_go.cancel()
        elif letting_go is not None:
            await asyncio.wait([letting_go])

    async def _let_go(self) -> None:
        self._session = None
        hold, self._hold = self._hold, AsyncExitStack()
        try:
            await hold.aclose()
        except Exception as error:
            logger.debug("the enqueuing connection was broken: %r", error)

    def _let_go_later(self) -> None:
        """A pool that is not ours is given its connection back soon."""

        def now() -> None:
            if not self._busy:
                self._letting_go = asyncio.create_task(self._let_go(), name="asyncjobs coalescer")

        if isinstance(self._letting_go, asyncio.TimerHandle):
            self._letting_go.cancel()
        self._letting_go = asyncio.get_running_loop().call_later(self._source.linger, now)


class Patience:
    """How long one statement at a time is waited for.

    `asyncio.timeout` would set a timer for every statement, and cost as much as everything else here. This timer looks now and
    then how long the statement of the moment has been under way.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._since = 0.0
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, statement: Coroutine[Any, Any, T]) -> T:
        """What *statement* returns. Raises TimeoutError when that takes longer than ANSWER."""
        loop = asyncio.get_running_loop()
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(ANSWER, self._look, loop)
        try:
            return await statement
        except asyncio.CancelledError:
            if self._is_over and task.uncancel() <= cancelling:
                raise TimeoutError(f"no answer within {ANSWER:g} s") from None
            raise
        finally:
            self._task, self._is_over = None, False

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._task is None:
            return
        left = self._since + ANSWER - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look, loop)
        else:
            self._is_over = True
            self._task.cancel()

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _NotConnected(Exception):
    """No connection could be had, so nothing was sent."""

    def __init__(self, said: DatabaseUnavailable) -> None:
        super().__init__(said)
        self.said = said


def _fail(orders: Iterable[_Order], error: Exception) -> None:
    for order in orders:
        if not order.ids.done():
            order.ids.set_exception(error)


def honest(error: Exception) -> Exception:
    """What to tell a caller: whether the job was stored, where that is in doubt."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, WrongConnection):
        return DatabaseUnavailable(
            f"the job was not stored, because this database cannot be written: {error}"
        )
    if isinstance(error, TimeoutError):
        words = str(error)
    if is_lost(error):
        return DatabaseUnavailable(
            f"the connection was lost while the job was stored ({words}); "
            "whether it was is not known, so look before you enqueue it again"
        )
    if is_transient(error) or is_cancelled(error):
        return DatabaseUnavailable(f"the job was not stored ({words}); try again")
    return error
