"""Start runners as processes, do them harm, and read what they said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from asyncjobs._model.job import NewJob
from tests.store.jobs import new_job
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]

ALERT: dict[str, Any] = {"look_every": 0.1, "settle": 0.4, "lease": 2.0, "renew_every": 0.2}
"""A keeper's times, for those who cannot wait."""


class Said(NamedTuple):
    """A line of the log."""

    at: float
    pid: int
    word: str
    name: str


@attrs.define(eq=False)
class Process:
    """A runner in a process of its own."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def kill(self) -> None:
        """As the kernel does it when memory is short."""
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        """As a virtual machine that is paused: connections stay open, and nobody reads."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@attrs.define(eq=False)
class Processes:
    """Those of one test, and their log."""

    dsn: str
    log: Path
    started: list[Process] = attrs.field(factory=list)
    inside: list[str] = attrs.field(factory=list)  #: the command that runs each, where there is one

    def start(self, *, vigilance: dict[str, Any] | None = None, ready: bool = True, **config: Any) -> Process:
        """A process that runs jobs; *config* are keywords of Jobs."""
        config["vigilance"] = ALERT if vigilance is None else vigilance
        command = [sys.executable, "-m", "tests.faults.program", self.dsn, str(self.log), json.dumps(config)]
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))))
        process = Process(
            subprocess.Popen([*self.inside, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        )
        self.started.append(process)
        if ready:
            self.wait_for("READY", by=process)
        return process

    def said(self, word: str | None = None, name: str | None = None, by: Process | None = None) -> list[Said]:
        """What was said until now, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        said = [
            Said(float(at), int(pid), what, whose)
            for at, pid, what, whose in (line.split(" ", 3) for line in lines)
        ]
        return [
            each
            for each in said
            if word in (None, each.word) and name in (None, each.name) and (by is None or by.pid == each.pid)
        ]

    def wait_for(self, word: str, *names: str, by: Process | None = None, within: float = 30.0) -> None:
        """Wait until *word* was said, of each of *names*."""

        def all_said() -> bool:
            heard = {each.name for each in self.said(word, by=by)}
            return set(names) <= heard if names else bool(heard)

        eventually(all_said, within=within)

    def counts(self, word: str) -> Counter[str]:
        """How often *word* was said of each job."""
        return Counter(each.name for each in self.said(word))

    def end(self) -> None:
        """End every process."""
        for process in self.started:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait()


def fault(kind: str, name: str, **given: Any) -> NewJob:
    """A job of `program.py`."""
    return new_job(f"fault:{kind}", "default", args=json.dumps({"name": name, **given}))
