"""A process that runs jobs, to be harmed: `python -m soak.runner DSN DIRECT_DSN FOLDER CONFIG`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from asyncjobs import Guard, Jobs
from asyncjobs._keeper.vigilance import Vigilance
from soak import jobs as kinds
from soak.history import Recorder


class Noting(logging.Handler):
    """What is logged becomes part of the history."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.WARNING)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._recorder.note(
            "log", record.levelname, logger=record.name, message=record.getMessage()[:2000],
            error=type(error).__name__ if error is not None else "",
        )  # fmt: skip


async def main(dsn: str, direct: str, folder: Path, config: dict[str, Any]) -> None:
    kinds.recorder = recorder = Recorder(folder, "runner", config["number"])
    recorder.note("process", "begun", kernels=os.getpid())
    logging.basicConfig(level=logging.WARNING, handlers=[Noting(recorder)], force=True)
    logging.captureWarnings(True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kinds.jobs = Jobs(
        dsn,
        queues=kinds.QUEUES,
        listen=config["listen"],
        vigilance=Vigilance(**config["vigilance"]),
        guard=Guard() if config["guarded"] else None,
    )
    kinds.dsn = direct
    async with kinds.jobs.running():
        recorder.note("process", "up", seat=config["seat"], listen=config["listen"])
        while not stop.is_set():
            measure(recorder)
            try:
                async with asyncio.timeout(2):
                    await stop.wait()
            except TimeoutError:
                continue
        recorder.note("process", "stopping")
    recorder.note("process", "down")


def measure(recorder: Recorder) -> None:
    """What this process uses."""
    recorder.note(
        "resources",
        files=len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,  # noqa: PTH208
        threads=threading.active_count(),
        tasks=len(asyncio.all_tasks()),
        most_kilobytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])))
