"""Who holds the event loop, seen from another thread while it is held."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any

import attrs

from asyncjobs._model.job import ClaimedJob

MOST_CALLS = 20  #: of the stack, the innermost


@attrs.frozen
class Blocked:
    """The event loop stood still: since when, how long, and whose code ran."""

    at: datetime
    seconds: float  #: until now, for what has not ended
    #: None: it was no job, but the application itself; or one of those that *who* names
    job_id: int | None
    kind: str | None
    who: str  #: in words
    #: of the loop's thread, while it was held; the innermost call is the last. A job that held the interpreter may have ended
    #: before it could be looked at.
    stack: str

    def __str__(self) -> str:
        return f"{self.who} blocked the event loop for {self.seconds:.1f} s"


@attrs.frozen
class Sight:
    """What is seen in the loop's thread."""

    who: str
    job: ClaimedJob | None
    stack: str


def look(
    loop: asyncio.AbstractEventLoop,
    thread: int,
    job_of: Callable[[Any, Any], ClaimedJob | None],
    in_threads: Callable[[], list[str]],
) -> Sight:
    """What the loop of the *thread* is at. *job_of* knows whose a task is, or a context; *in_threads* names sync jobs."""
    frame = sys._current_frames().get(thread)
    task = asyncio.current_task(loop)
    stack, handle = _below_the_loop(frame)
    context = task.get_context() if task is not None and hasattr(task, "get_context") else None
    job = job_of(task, context or getattr(handle, "_context", None))
    if job is not None:
        return Sight(f"job {job.id} ({job.kind})", job, stack)
    if task is not None:
        return Sight(f"the application itself, in its task {task.get_name()!r},", None, stack)
    if handle is not None:
        return Sight("the application itself, in a callback,", None, stack)
    others = in_threads()
    which = f" (sync jobs run in threads: {', '.join(others)})" if others else ""
    return Sight(f"something that holds the interpreter or the processor{which}", None, stack)


def _below_the_loop(frame: FrameType | None) -> tuple[str, Any]:
    """The innermost calls, and the handle in which asyncio's own loop runs them: its context is the job's also in a child
    task or a callback of the job, which a task does not tell before Python 3.12.
    """
    calls: list[tuple[FrameType, int]] = []
    handle = None
    while frame is not None:
        if frame.f_code.co_name == "_run" and frame.f_globals.get("__name__") == "asyncio.events":
            handle = frame.f_locals.get("self")
            break
        calls.append((frame, frame.f_lineno))
        frame = frame.f_back
    shown = traceback.StackSummary.extract(iter(calls[:MOST_CALLS]))
    shown.reverse()
    return "".join(shown.format()), handle
