"""`publishing("inline")` and its like, for tests: what is published within goes another way. Nobody needs to have started.

inline      the subscribers of this process run at once, where the event is published, and what they raise is raised there
standalone  they become jobs, matched here: the subscriptions in the database are not asked
suppress    nothing happens
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import attrs

from asyncjobs._bus.events import about, current_event
from asyncjobs._bus.relay import Relay
from asyncjobs._bus.subscribing import subscriptions
from asyncjobs._define import registry
from asyncjobs._define.call import Call
from asyncjobs._define.codec import Codec
from asyncjobs._engine.supply import Provide, supplied
from asyncjobs._enqueue.ambient import which
from asyncjobs._enqueue.carried import stamped
from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.events import Event, Subscription, matches
from asyncjobs._model.job import NewJob
from asyncjobs._model.queues import QueueRegistry
from asyncjobs._model.verbs import Cancel, Discard, Finish, Skip, Snooze, says_verb
from asyncjobs._model.versions import stored_name
from asyncjobs.errors import InvalidOption

Word = Literal["inline", "standalone", "suppress"]
WORDS = ("inline", "standalone", "suppress")


@attrs.frozen(eq=False)
class Mode:
    """Where events go instead."""

    word: Word
    events: list[Event] = attrs.field(factory=list)  #: what was published, in order

    async def publish(
        self, event: Event, text: str, *, jobs: Enqueuer, provide: Provide, codec: Codec, on: Any
    ) -> list[int]:
        """Let *event* go where this mode says: the jobs it became."""
        self.events.append(event)
        if self.word == "suppress":
            return []
        found = [each for each in subscriptions() if matches(each, event.name, event.attributes)]
        if self.word == "standalone":
            new = stamped([_new_job(each, event, text, codec, jobs.registry) for each in found], jobs.carried)
            return await jobs.store(new, which(jobs, on)[1])
        for each in found:
            # What is to become of its job need not be said: there is none.
            with about(event), suppress(Snooze, Cancel, Skip, Discard, Finish):
                await _run(each, event, text, codec, {Event: current_event, **provide})
        return []


_mode: ContextVar[Mode | None] = ContextVar("asyncjobs_publishing", default=None)


def current_mode() -> Mode | None:
    """The mode set around this code; None: events go to the database."""
    return _mode.get()


@contextmanager
def publishing(mode: Word) -> Iterator[list[Event]]:
    """For tests: what is published within, by this task or those it starts, is kept in the list it gives, and goes this way.

    "inline": this process' subscribers run at once. "standalone": they become jobs without having been declared in the
    database. "suppress": nothing happens.
    """
    if mode not in WORDS:
        raise InvalidOption(f"publishing({mode!r:.80}) is no mode; there are {', '.join(WORDS)}")
    entered = Mode(mode)
    token = _mode.set(entered)
    try:
        yield entered.events
    finally:
        _mode.reset(token)


def _new_job(
    subscription: Subscription, event: Event, text: str, codec: Codec, queues: QueueRegistry
) -> NewJob:
    known = {
        "id": event.id,
        "name": event.name,
        "host": event.host,
        "application": event.application,
        "context": event.context,
        "published_at": event.published_at.isoformat(),
        "subscription": subscription.name,
    }
    return NewJob(
        kind=subscription.kind,
        method=subscription.method,
        args=text,
        queue=subscription.queue,
        priority=queues.priority_of(subscription.queue)
        if subscription.priority is None
        else subscription.priority,
        max_attempts=subscription.max_attempts,
        tags=subscription.tags,
        meta=codec.encode_plain({**(subscription.meta or {}), "event": known}, what="meta of an event's job"),
        options=subscription.options,
    )


class _Kind(Protocol):
    def dependencies(self, method: str | None = None) -> frozenset[Any]: ...
    def bind(self, method: str | None, args: str, codec: Codec, supply: Any) -> Call: ...


async def _run(subscription: Subscription, event: Event, text: str, codec: Codec, provide: Provide) -> None:
    """Run a subscriber here and now, from the same JSON a job would have."""
    kind: _Kind = registry.find(subscription.kind)
    method = subscription.method
    if isinstance(kind, Relay):
        async with supplied(provide, kind.dependencies(None)) as supply:
            prepared = await kind.prepared(event, text, codec, supply)
        name = stored_name(prepared.kind, prepared.history.version)
        kind, method, text = registry.find(name), prepared.method, prepared.encode(codec)
    async with supplied(provide, kind.dependencies(method)) as supply:
        call = kind.bind(method, text, codec, supply)
        if call.needed is not None:
            answer = call.needed()
            answer = await answer if inspect.isawaitable(answer) else answer
            if not answer or says_verb(answer):
                return
        if call.is_async:
            await call.function()
        else:
            await asyncio.to_thread(call.function)
