"""The channels of NOTIFY. A payload is a hint and nothing more: whoever hears it looks into the tables."""

from __future__ import annotations

READY = "ready"  #: a queue has jobs and a runner is idle; payload: the queue
FINISHED = "finished"  #: a job somebody awaits is final; payload: its id
CANCEL = "cancel"  #: somebody asks to stop a running job; payload: its id
QUEUES = "queues"  #: a queue was paused or resumed; payload: the queue
SCHEDULES = "schedules"  #: there are others, or they tick at other times; no payload


def channel(schema: str, name: str) -> str:
    """The channel *name* of one schema."""
    return f"{schema}:{name}"
