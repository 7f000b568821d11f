"""`jobs.publish(…)`: what happened, told in the publisher's own transaction to whoever has subscribed, in any application."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

import attrs
import orjson

from asyncjobs._bus import local
from asyncjobs._bus.events import event_of, said_around
from asyncjobs._bus.heart import HEARTBEAT, Heart
from asyncjobs._bus.registrar import Registrar
from asyncjobs._bus.subscribing import subscriptions
from asyncjobs._define.definition import job
from asyncjobs._define.enqueueing import codec_of
from asyncjobs._define.from_sync import on_its_loop
from asyncjobs._engine.context import current_job
from asyncjobs._engine.supply import Provide
from asyncjobs._enqueue.ambient import which, which_from_sync
from asyncjobs._enqueue.carried import CARRIED, captured, stamped
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.durations import Duration, moment, seconds
from asyncjobs._model.events import Subscription, check_event_name
from asyncjobs._model.job import NewJob
from asyncjobs._model.options import check_name
from asyncjobs._store.bus import Stored, Subscribed, list_subscriptions, publish_event
from asyncjobs._store.connection import Connection
from asyncjobs._store.faults import is_transient
from asyncjobs._store.foreign import Joined, explained, is_sync, join
from asyncjobs._store.synchronous import at_once, join_sync
from asyncjobs.errors import DatabaseUnavailable, InvalidInput, InvalidOption

DUE = "asyncjobs:publish"
"""The kind of the job that publishes an event when it is due."""


@attrs.frozen
class Published:
    """What `publish` did."""

    id: str  #: the event's
    jobs: tuple[int, ...]  #: the jobs it became; of an event that is due later, the one that will publish it


class Publisher(Enqueuer):
    """The part of a Jobs that publishes events."""

    application: str
    provided: Provide  #: what jobs that run here depend on

    @cached_property
    def _registrar(self) -> Registrar:
        return Registrar(self._source, self.schema, self.application, self._subscriptions)

    def _subscriptions(self) -> list[Subscription]:
        return [
            attrs.evolve(each, priority=self.registry.priority_of(each.queue))
            if each.priority is None
            else each
            for each in subscriptions()
        ]

    async def publish(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        /,
        *,
        on: Any = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        queue: str = "default",
    ) -> Published:
        """Tell everybody who has subscribed, in any application on this database, that something happened.

        One job is stored for each subscription that matches, in the transaction of *on*, or of the ambient `jobs.on(…)`; else
        in one of its own. *attributes* are plain JSON data. With *delay* or *at* it is published then, to those who have
        subscribed by then: a job of *queue* sees to it. Raises InvalidOption and InvalidInput.
        """
        codec = codec_of(self)
        what = f"event {check_event_name(name)!r}"
        text = codec.encode_plain(_checked(attributes, what), what=what)
        known = self._known(name)
        when = _when(delay, at)
        mode = local.current_mode()
        if mode is None and self.transactional:
            await self.check_transaction(which(self, on)[1])
        if mode is not None and (mode.word != "standalone" or not when):
            event = event_of(known, orjson.loads(text), datetime.now(UTC))
            ids = await mode.publish(event, text, jobs=self, provide=self.provided, codec=codec, on=on)
        elif when:
            args = f'{{"attributes":{text},"known":{orjson.dumps(known).decode()}}}'
            new = NewJob(
                kind=DUE,
                method=None,
                args=args,
                queue=check_name(queue, "queue"),
                priority=0,
                max_attempts=100,
                **when,
            )
            ids = await self.store(stamped([new], self.carried), which(self, on)[1])
        else:
            ids = [stored.id for stored in await self.publish_known(name, text, known, which(self, on)[1])]
        return Published(known["id"], tuple(ids))

    def publish_sync(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        /,
        *,
        on: Any = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        queue: str = "default",
    ) -> Published:
        """`publish` for code that cannot await: on a sync session or connection, or from a thread; as `later_sync`."""
        _, here = which_from_sync(self, on)
        if here is not None:
            joined = join_sync(here)
            return at_once(self.publish(name, attributes, on=joined, delay=delay, at=at, queue=queue))
        return on_its_loop(self, lambda: self.publish(name, attributes, delay=delay, at=at, queue=queue))

    async def declare_subscriptions(self, *, only: bool = False) -> None:
        """Subscribe now to what the code of this process subscribes to, as a runner does at its start.

        With *only*, forget at once whatever else this application is subscribed to, which otherwise takes an hour; for the end
        of a deployment, when no process with the old code is left.
        """
        self.check_open()
        await self._registrar.declare(only=only)

    async def list_subscriptions(self) -> list[Subscribed]:
        """Who has subscribed to what, in all applications on this database."""
        return await self.ask(list_subscriptions)

    async def subscribe_now(self) -> None:
        """At the start of a runner: events that are published from here on reach it."""
        try:
            await self._registrar.declare()
        except Exception as error:
            if not isinstance(error, DatabaseUnavailable) and not is_transient(error):
                raise  # else it subscribes as soon as Postgres is back

    async def subscribe_always(self) -> None:
        """As long as a runner runs."""
        await self._registrar.run()

    def heartbeats(self, made_up_for: Duration | None) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What sees to it that every minute is published, if it shall be; missed ones up to so long ago."""
        if made_up_for is None:
            return ()
        window = seconds(made_up_for, "heartbeat")

        async def publish(connection: Connection, attributes: dict[str, int]) -> None:
            await self.publish_known(
                HEARTBEAT, orjson.dumps(attributes).decode(), self._known(HEARTBEAT), connection
            )

        return (Heart(self._source, self.schema, window, publish).run,)

    def _known(self, name: str) -> dict[str, Any]:
        return {
            "id": str(uuid4()),
            "name": name,
            "host": _host(),
            "application": self.application,
            "context": said_around(),
        }

    async def publish_known(
        self, name: str, attributes: str, known: Mapping[str, Any], on: Any
    ) -> Sequence[Stored]:
        """Publish an event that was checked."""
        if on is None or not is_sync(on):  # a sync connection needs no loop, and the Jobs need not be open
            self.check_open()
        carried = captured(self.carried)
        meta = {"event": dict(known), **({CARRIED: carried} if carried else {})}
        async with AsyncExitStack() as stack:
            if on is None:
                connection = await stack.enter_async_context(self.connection())
                joined = Joined(connection, connection, commits_itself=True, is_open=lambda: False)
            else:
                joined = await join(on)
            with explained(joined, "the event was published"):
                stored = await publish_event(
                    self.session(joined.connection), name, attributes, orjson.dumps(meta).decode()
                )
        lanes = list({each.lane for each in stored})
        if joined.tells_here:
            self._wake(lanes)
        elif joined.on_commit is not None and self.runner is not None and lanes:
            joined.on_commit(lambda: self._wake(lanes))
        return stored


@job(kind=DUE)
async def publish_due(attributes: dict[str, Any], known: dict[str, Any]) -> list[int]:
    """Publish an event that is due, exactly once: with this job's completion."""
    current = current_job()
    async with current.transaction():
        jobs, on = which()
        assert isinstance(jobs, Publisher)
        text = codec_of(jobs).encode_plain(attributes, what=f"event {known['name']!r}")
        current.result = [each.id for each in await jobs.publish_known(known["name"], text, known, on)]
    return list(current.result)


def _checked(attributes: object, what: str) -> dict[str, Any]:
    if attributes is None:
        return {}
    if not isinstance(attributes, Mapping) or not all(isinstance(key, str) for key in attributes):
        raise InvalidInput(
            f"{what} has {type(attributes).__name__} for attributes; give a dictionary whose keys are text"
        )
    return dict(attributes)


def _when(delay: Duration | None, at: datetime | None) -> dict[str, Any]:
    if delay is not None and at is not None:
        raise InvalidOption("delay= and at= both say when; give one of them")
    if delay is not None:
        return {"delay": seconds(delay, "delay")}
    return {} if at is None else {"scheduled_at": moment(at, "at")}


def _host() -> str:
    return socket.gethostname()
