"""The event a job is about, inside the job; and what is said around the code that publishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import datetime
from typing import Any

import orjson

from asyncjobs._engine.context import current_job, job_in
from asyncjobs._model.events import Event
from asyncjobs._model.options import check_name
from asyncjobs.errors import JobNotPublished

#: Of a job that passes an event on to another whose inputs are not its attributes: these stand there.
ATTRIBUTES = "attributes"

_event: ContextVar[Event | None] = ContextVar("asyncjobs_event", default=None)
_context: ContextVar[str | None] = ContextVar("asyncjobs_event_context", default=None)


@contextmanager
def in_context(context: str) -> Iterator[None]:
    """What is published within it says so: `event.context`."""
    token = _context.set(check_name(context, "context"))
    try:
        yield
    finally:
        _context.reset(token)


def said_around() -> str | None:
    """What `in_context` says around this code."""
    return _context.get()


@contextmanager
def about(event: Event) -> Iterator[None]:
    """A job that runs within it is about *event*."""
    token = _event.set(event)
    try:
        yield
    finally:
        _event.reset(token)


def current_event() -> Event:
    """The event that became the job which is running here. Raises JobNotPublished where there is none."""
    given = _event.get()
    if given is not None:
        return given
    known = current_job().meta.get("event")
    running = job_in(copy_context())
    if (
        running is None or not isinstance(known, Mapping) or "published_at" not in known
    ):  # a meta of one's own
        raise JobNotPublished(
            "this is not a job an event became: it was enqueued by `later`, or is called by hand; take the attributes as arguments "
            "where both shall work, or publish the event"
        )
    attributes = known[ATTRIBUTES] if ATTRIBUTES in known else orjson.loads(running.args)
    return event_of(known, attributes, datetime.fromisoformat(known["published_at"]))


def event_of(known: Mapping[str, Any], attributes: Mapping[str, Any], published_at: datetime) -> Event:
    """What is stored with a job, as an event."""
    return Event(
        name=known["name"],
        attributes=attributes,
        id=known["id"],
        published_at=published_at,
        host=known["host"],
        application=known.get("application"),
        context=known.get("context"),
    )
