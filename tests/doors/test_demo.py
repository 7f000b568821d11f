"""The first five minutes as a newcomer has them: real processes, a real server, all of the real data."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

import asyncjobs
from asyncjobs.demo import airfields, run
from asyncjobs.demo.check import faults_of, read_csv
from asyncjobs.demo.exports import as_csv
from asyncjobs.demo.progress import progress
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)  # the whole data set, on a machine that may be busy

COUNTRIES = airfields.by_country()
STATIONS = f"of {sum(map(len, COUNTRIES.values()))} stations"
SOURCES = str(Path(asyncjobs.__file__).parent.parent)


class Demo:
    """A demo in a process, and as if in a terminal, of its own."""

    def __init__(self, *arguments: str) -> None:
        self.output = ""
        self._mark = f"{uuid4()}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asyncjobs", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": SOURCES, "PYTHONUNBUFFERED": "1", "ASYNCJOBS_MARK": self._mark},
            text=True,
            start_new_session=True,
        )

    def read_until(self, words: str) -> str:
        """The first line with *words* in it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if words in line:
                return line
        raise AssertionError(f"it ended without saying {words!r}:\n{self.output}")

    def end(self) -> int:
        """What it exits with, once it does."""
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return self._process.wait()

    def tell(self, order: signal.Signals) -> None:
        """As a terminal does with Ctrl-C: all of the foreground gets the signal."""
        os.killpg(self._process.pid, order)

    def kill(self) -> None:
        with self._process:
            self._process.kill()

    def processes(self) -> list[psutil.Process]:
        """The demo's and all it started, whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("ASYNCJOBS_MARK") == self._mark:
                    found.append(process)
        return found

    def data(self) -> Path:
        """Where its Postgres keeps its data."""
        commands = [process.cmdline() for process in self.processes()]
        return next(Path(command[command.index("-D") + 1]) for command in commands if "-D" in command)


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    """Starts demos; none outlives its test."""
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_once_completes_every_export(demo: Callable[..., Demo]) -> None:
    """`--once` exports all countries, finds them right in Postgres, says so and exits 0; nothing of it is left."""
    once = demo("--once")
    assert once.end() == 0, once.output
    *_, verdict, summary = once.output.splitlines()
    assert verdict.startswith("Read back from Postgres: every station of every country")
    assert summary == f"{len(COUNTRIES)} jobs completed, 0 failed"
    assert once.processes() == []


def test_a_spoiled_export_is_named(demo: Callable[..., Demo]) -> None:
    """`--break IS` fails Iceland's export alone, at its last attempt, and exits 1, naming it."""
    broken = demo("--once", "--break", "IS")
    assert broken.end() == 1, broken.output
    *_, verdict, summary = broken.output.splitlines()
    assert re.fullmatch(r"IS: job \d+ is failed after 3 of 3 attempts: .*spoiled, as --break asked", verdict)
    assert summary == f"{len(COUNTRIES) - 1} jobs completed, 1 failed"


def test_the_plain_form_serves_until_ctrl_c(demo: Callable[..., Demo]) -> None:
    """It serves what it exported, takes more requests, and Ctrl-C ends it: exit 0, no traceback, nothing left."""
    plain = demo()
    line = plain.read_until("Look at ")
    data = plain.data()
    assert data.is_dir()
    url = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert url is not None
    with httpx.Client(base_url=url[0], trust_env=False, timeout=30) as client:
        assert f"{len(COUNTRIES)} of {len(COUNTRIES)} exports" in client.get("/").text
        assert read_csv(client.get("/tenants/IS/exports.csv").text) == COUNTRIES["IS"]
        assert client.post("/tenants/IS/exports").status_code == 202
        assert client.post("/tenants/ZZ/exports").status_code == 404
        eventually(
            lambda: [each["state"] for each in client.get("/tenants/IS/exports").json()] == ["completed"] * 2
        )
    plain.tell(signal.SIGINT)
    assert plain.end() == 0, plain.output
    assert "Traceback" not in plain.output
    assert plain.processes() == []
    assert not data.exists()


@pytest.mark.parametrize("moment", ["Starting a Postgres", "The application serves", STATIONS])
@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_at_any_moment(demo: Callable[..., Demo], moment: str, order: signal.Signals) -> None:
    """Ctrl-C, or `kill`, before the work is done ends `--once` as a shell calls the interrupted: 130, nothing left."""
    once = demo("--once")
    once.read_until(moment)
    once.tell(order)
    assert once.end() == 130, once.output
    assert "Traceback" not in once.output
    assert once.processes() == []


def test_kill_9_leaves_nothing(demo: Callable[..., Demo]) -> None:
    """Killed in its work, its Postgres goes too, with its data."""
    killed = demo("--once")
    killed.read_until(STATIONS)
    data = killed.data()
    killed.kill()
    eventually(lambda: killed.processes() == [] and not data.exists())


def test_what_cannot_be_asked_of_it(demo: Callable[..., Demo]) -> None:
    """A taken port and an unknown country are said in one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = demo("--port", str(taken.getsockname()[1]))
        assert refused.end() == 1
    assert "Address already in use" in refused.output
    unknown = demo("--break", "ZZ")
    assert unknown.end() == 2
    assert "no such country" in unknown.output
    assert "Traceback" not in refused.output + unknown.output


def test_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo needs more than asyncjobs does, and names the extra."""
    monkeypatch.delitem(sys.modules, "asyncjobs.demo.play", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run() == 2
    assert "the demo needs uvicorn: pip install 'asyncjobs-pg[demo]'" in capsys.readouterr().err


def exported(tenant: str, **changed: Any) -> dict[str, Any]:
    """A row of what the check reads."""
    stations = COUNTRIES[tenant]
    return {
        "tenant": tenant,
        "state": "completed",
        "stations": len(stations),
        "csv": as_csv(stations),
    } | changed


def test_the_check_finds_what_is_wrong() -> None:
    """A changed value, a lost station, a missing export, a job without its row: none passes."""
    few = {tenant: COUNTRIES[tenant] for tenant in ("FO", "GL", "IS")}
    right = [exported(tenant) for tenant in few]
    assert list(faults_of(right, 3, few)) == []

    text = right[2]["csv"]
    assert text.count("Keflavik") == 1
    assert text.endswith("\r\n")
    for spoiled in (text.replace("Keflavik", "Keflavík"), text[: text[:-2].rindex("\r\n") + 2], "", None):
        wrong = [*right[:2], exported("IS", csv=spoiled)]
        assert list(faults_of(wrong, 3, few)) == ["IS: its export is not what the data set says"]
    assert list(faults_of(right[:2], 2, few)) == ["IS: it has no export"]
    assert len(list(faults_of(right, 4, few))) == 1
    late = exported("IS", state="running", job=3, attempt=1, max_attempts=3, error=None)
    assert "job 3 is running" in next(faults_of([*right[:2], late], 3, few))


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets one line for each tenth, and no control characters."""
    with progress(exports=20, stations=100) as show:
        for done in range(21):
            show(done, 5 * done)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{done} of 20 exports, {5 * done} of 100 stations" for done in range(2, 21, 2)]


def test_progress_is_bars_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal gets bars, redrawn."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(exports=20, stations=100) as show:
        show(20, 100)
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    assert "20/20" in shown
    assert "100/100" in shown
