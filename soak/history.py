"""What processes saw: each appends lines of JSON to a file of its own. Nothing is shared, so nothing is lost with a process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import orjson


@attrs.frozen
class Event:
    """Something a process saw or did."""

    mono: float  #: seconds on the machine's monotonic clock, which all its processes share
    wall: float
    pid: int  #: of the process: a number of our own, because the kernel gives its numbers out again
    op: str  #: enqueue, start, end, cancel, fault, process, log, resources, config
    phase: str = ""  #: invoke, then ok, fail (it certainly did not happen) or info (nobody knows); begin and end of a fault
    key: str = ""  #: of the job, given by who enqueued it
    job: int = 0
    token: int = 0
    detail: Mapping[str, Any] = attrs.field(factory=dict)


class Recorder:
    """Writes the history of this process."""

    def __init__(self, folder: Path, who: str, number: int) -> None:
        self._number = number
        path = folder / f"{who}-{number}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(
        self, op: str, phase: str = "", *, key: str = "", job: int | None = 0, token: int = 0, **detail: Any
    ) -> None:
        """One line, written before this returns: it survives a SIGKILL in the next instant. May be called in any thread."""
        event = Event(time.monotonic(), time.time(), self._number, op, phase, key, job or 0, token, detail)
        os.write(self._file, orjson.dumps(attrs.asdict(event), option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        os.close(self._file)


def read(folder: Path) -> list[Event]:
    """All histories in *folder*, in the order of the clock."""
    return sorted(
        (event for path in folder.glob("*.jsonl") for event in _lines(path)), key=lambda each: each.mono
    )


def _lines(path: Path) -> Iterator[Event]:
    with path.open("rb") as file:
        for line in file:
            yield Event(**orjson.loads(line))
