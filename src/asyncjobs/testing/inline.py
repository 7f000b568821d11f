"""Jobs that run where they are enqueued: `run="now"` for everything, within a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asyncjobs._app import Jobs
from asyncjobs._enqueue.ambient import which


@contextmanager
def inline(jobs: Jobs | None = None) -> Iterator[None]:
    """Within it, what is enqueued runs at once, in the caller's transaction; what it raises is raised there.

    For all tasks that enqueue through these *jobs* (the ambient ones). What is due later is stored, and so is what its call or
    its definition wants to run later.
    """
    found: Any = jobs if jobs is not None else which()[0]
    kept, found.run = found.run, "now"
    try:
        yield
    finally:
        found.run = kept
