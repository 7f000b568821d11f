"""For the message bus: publish an event, and say what is subscribed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from asyncjobs._model.events import Subscription
from asyncjobs._model.job import Lane
from asyncjobs._store.intake import explain
from asyncjobs._store.rows import from_json
from asyncjobs._store.session import Session


class Stored(NamedTuple):
    """A job that an event became, and where it waits."""

    id: int
    lane: Lane


async def publish_event(
    session: Session, name: str, attributes: str, meta: str, *, wake: bool = True
) -> list[Stored]:
    """Store a job for every subscription that matches, in the caller's transaction.

    *attributes* and *meta*, in which `event` is what else is known of it, are JSON. Raises as `insert_job`.
    """
    try:
        rows = await session.fetch("publish_event", name, attributes, meta, wake)
    except Exception as error:
        explain(session, error)
        raise
    return [Stored(job_id, Lane(queue, kind)) for job_id, queue, kind in rows]


async def declare_subscriptions(session: Session, app: str, subscriptions: Sequence[Subscription]) -> None:
    """Write what *app* is subscribed to, over what stands there."""
    await session.fetch("declare_subscriptions", app, _as_json(subscriptions))


async def renew_subscriptions(
    session: Session, app: str, subscriptions: Sequence[Subscription], fresh: float
) -> None:
    """Say that what *app* is subscribed to holds, unless that was said *fresh* seconds ago; write what is missing."""
    await session.fetch("renew_subscriptions", app, _as_json(subscriptions), fresh)


async def drop_subscriptions(
    session: Session, app: str, but: Sequence[str], undeclared_for: float
) -> list[str]:
    """Forget what *app* was subscribed to, *but* these names, once nobody has declared it for so many seconds: the names."""
    return [row[0] for row in await session.fetch("drop_subscriptions", app, list(but), undeclared_for)]


class Beat(NamedTuple):
    """What is to be published now, and when to look again."""

    minute: datetime | None
    seconds: float


async def beat(session: Session, made_up_for: float) -> Beat:
    """Take the next minute of which nobody has published a heartbeat, missed ones up to *made_up_for* seconds ago."""
    return Beat(*await session.fetchrow("beat", made_up_for))


class Subscribed(NamedTuple):
    """A subscription as people see it."""

    application: str
    name: str
    listens_to: str  #: the event's name; a pattern in the words of the database
    where: Any  #: as it is stored
    kind: str
    method: str | None
    queue: str
    priority: int
    max_attempts: int
    since: datetime


async def list_subscriptions(session: Session) -> list[Subscribed]:
    """Every subscription of every application."""
    return [
        Subscribed(app, name, listens_to, from_json(matchers), *rest)
        for app, name, listens_to, matchers, *rest in await session.fetch("list_subscriptions")
    ]


def _as_json(subscriptions: Sequence[Subscription]) -> str:
    return orjson.dumps([each.as_json() for each in subscriptions]).decode()
