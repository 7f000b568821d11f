"""Subscriptions are known per process, and every runner declares them: those of a test shall be known in it alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from asyncjobs._bus import subscribing
from asyncjobs._model.events import Subscription


def taken() -> Mapping[str, Subscription]:
    """What was subscribed until now, and no longer is: for the end of a test's module."""
    mine = dict(subscribing._subscriptions)
    subscribing._subscriptions.clear()
    return mine


@contextmanager
def only(mine: Mapping[str, Subscription]) -> Iterator[None]:
    """Within it, *mine* is what this process subscribes to, and what is subscribed there is forgotten after it."""
    before = dict(subscribing._subscriptions)
    subscribing._subscriptions.clear()
    subscribing._subscriptions.update(mine)
    try:
        yield
    finally:
        subscribing._subscriptions.clear()
        subscribing._subscriptions.update(before)
