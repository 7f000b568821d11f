"""The command, in the hands of somebody careless, on data of somebody hostile."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import asyncpg
import psutil
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Jobs
from asyncjobs.cli.logs import Plain
from asyncjobs.cli.main import asyncjobs as command
from asyncjobs.cli.output import visible, visible_line
from tests.command import Shell, open_shop
from tests.security.rules import ROOT
from tests.security.source import modules

CANARY = "c4n4ry-s3cr3t"

# What a terminal obeys: a title, a clipboard, a cleared screen, an answer typed for you, the eight-bit CSI, a turned line.
HOSTILE = "\x1b]0;owned\x07\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2J\x1b[6n\r\x08\x7f\x9b31m\u202etxt.exe\u2028forged"
LINES = "line\n2026-01-01 00:00:00,000 CRITICAL root: forged"


TURNING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmful(text: str) -> list[str]:
    """The characters of *text* no terminal should be sent."""
    steering = ("Cc", "Zl", "Zp", "Cs")
    return [
        char
        for char in text
        if char in TURNING or (unicodedata.category(char) in steering and char not in "\n\t")
    ]


async def ask(*words: str | int, **env: str) -> Result:
    """What the command says, called here: a process of its own would only take longer."""
    given = [str(word) for word in words]
    return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(command, given, env=env))


@pytest.fixture
async def hostile_rows(dsn: str, anyio_backend: str) -> AsyncIterator[dict[str, int]]:
    """Jobs somebody inserted who is no friend, one of each state people look at."""
    connection = await asyncpg.connect(dsn)
    said = json.dumps({"key" + HOSTILE: HOSTILE + LINES})
    errors = json.dumps(
        [
            {
                "attempt": 1,
                "at": "2026-01-01T00:00:00+00:00",
                "error": LINES + HOSTILE,
                "traceback": HOSTILE + LINES,
            }
        ]
    )
    live = "insert into asyncjobs.live_jobs (queue, kind, method, args, meta, tags, errors) values "
    live += "($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6, $7::text::jsonb) returning id"
    deep = "[" * 900 + "]" * 900
    odd = {
        "all": (HOSTILE, "k" + LINES + HOSTILE, HOSTILE, said, said, [HOSTILE, LINES], errors),
        "numbers": ("q", "k", None, '{"a": 1e400, "b": ' + "9" * 6000 + "}", "[1e-400]", None, "[5, null]"),
        "levels": ("q", "k", None, deep, deep, None, None),
    }
    ids = {name: await connection.fetchval(live, *row) for name, row in odd.items()}
    await connection.close()
    yield ids


@pytest.mark.security("SEC-C3", "SEC-S2")
async def test_no_control_character_of_a_job_reaches_a_terminal(
    dsn: str, hostile_rows: dict[str, int]
) -> None:
    """Names, inputs, tags, errors and tracebacks are shown with what they hold written out, in one row each."""
    listed = await ask("list", ASYNCJOBS_DSN=dsn)
    counted = await ask("count", ASYNCJOBS_DSN=dsn)
    several = [await ask("show", number, ASYNCJOBS_DSN=dsn) for number in hostile_rows.values()]
    for shown in (listed, counted, *several):
        assert (shown.exit_code, harmful(shown.output)) == (0, []), shown.output
    assert "\\x1b]0;owned" in listed.output
    assert len(listed.output.splitlines()) == 1 + len(hostile_rows)
    assert not re.findall(r"^2026.*CRITICAL", listed.output, re.MULTILINE)


@pytest.mark.faults
@pytest.mark.security("SEC-C3")
async def test_a_table_on_a_terminal_is_as_harmless(
    dsn: str, hostile_rows: dict[str, int], tmp_path: Path
) -> None:
    """Also where it is drawn with colours: no sequence of a job's is among those that draw."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "ASYNCJOBS_DSN": dsn, "COLUMNS": "400", "TERM": "xterm"}
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "asyncjobs", "list"],
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env=environment,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            chunk = await anyio.to_thread.run_sync(os.read, ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        said += chunk
    os.close(ours)
    assert process.wait() == 0
    drawn = re.sub(r"\x1b\[[\d;]*m", "", said.decode())
    assert "owned" in drawn
    assert harmful(drawn.replace("\r\n", "\n")) == []


@pytest.mark.security("SEC-C3")
async def test_json_is_json_whatever_is_stored(
    dsn: str, hostile_rows: dict[str, int], tmp_path: Path
) -> None:
    """One value by the standard, in ASCII, with what is stored in it; also of numbers and depths Python cannot hold."""
    shell = Shell(tmp_path, {"ASYNCJOBS_DSN": dsn})
    listed = await shell("list", "--json")
    assert (listed.code, listed.out.isascii()) == (0, True), listed.err

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    jobs = {job["id"]: job for job in json.loads(listed.out, parse_constant=refuse)}
    assert jobs.keys() == set(hostile_rows.values())
    assert jobs[hostile_rows["all"]]["queue"] == HOSTILE
    assert jobs[hostile_rows["all"]]["args"] == {"key" + HOSTILE: HOSTILE + LINES}
    shown = await shell("show", hostile_rows["levels"], "--json")
    assert json.loads(shown.out, parse_constant=refuse)["args"].startswith("[[[")


@pytest.mark.security("SEC-C3", "SEC-S9")
@given(st.text())
def test_any_text_is_made_harmless(text: str) -> None:
    """And harmless text is left as it is."""
    assert harmful(visible(text)) == []
    assert re.findall(r"[\n\t\r]", visible_line(text)) == []
    if not harmful(text):
        assert visible(text) == text


@pytest.mark.security("SEC-S9")
def test_no_line_of_the_log_can_be_forged() -> None:
    """Whatever a message, its arguments or a traceback say, only the record's own line begins at the margin."""
    try:
        raise ValueError(LINES + HOSTILE)
    except ValueError:
        record = logging.makeLogRecord(
            {
                "msg": "job %s failed",
                "args": (LINES,),
                "exc_info": sys.exc_info(),
                "levelname": "ERROR",
                "name": "x",
            }
        )
    shown = Plain("%(asctime)s %(levelname)s %(message)s").format(record)
    assert harmful(shown) == []
    first, *others = shown.splitlines()
    assert first.split()[2:4] == ["ERROR", "job"]
    assert [line for line in others if not line.startswith("    ")] == []


@pytest.mark.security("SEC-S9", "SEC-C5", "SEC-S6")
async def test_the_log_of_a_runner_and_its_ports(
    dsn: str, hostile_rows: dict[str, int], tmp_path: Path
) -> None:
    """`run` beside hostile rows: it listens on no port, its log holds no forged line, no control character, no input."""
    shop = open_shop(tmp_path, dsn)
    done = await shop(
        "enqueue", "shop.main:jobs", "ExportStations.fail", f"tenant={LINES}{HOSTILE}".replace("\0", "")
    )
    assert done.code == 0, done.err
    secret = await shop("enqueue", "shop.main:jobs", "send", "user_id=1", f'tags=["{CANARY}"]', "--json")
    assert secret.code == 0, secret.err
    async with shop.going("run", "shop.main:jobs", "--verbose") as runner:
        await runner.says("no stations in")
        process = psutil.Process(runner.process.pid)
        assert [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN] == []
        assert CANARY not in str(process.cmdline())

        async with Jobs(dsn) as jobs:
            await jobs.handle(secret.data["id"]).result(timeout=20)
    assert harmful(runner.err) == []
    assert re.findall(r"^2026-01-01.*forged", runner.err, re.MULTILINE) == []
    assert CANARY not in runner.err


@pytest.mark.security("SEC-C1", "SEC-S6")
async def test_a_password_on_the_command_line_is_remarked_upon_and_not_repeated() -> None:
    """Errors show neither it nor the environment's; the remark says where to put it instead."""
    wrong = f"postgresql://u:{CANARY}@127.0.0.1:1/db"
    given_here = await ask("list", "--dsn", wrong)
    assert (given_here.exit_code, "list of processes" in given_here.output) == (4, True), given_here.output
    given_there = await ask("list", ASYNCJOBS_DSN=wrong)
    assert (given_there.exit_code, "list of processes" in given_there.output) == (4, False)
    unreadable = await ask("list", "--dsn", f"postgresql://u:x/{CANARY}@127.0.0.1:1/db")
    assert unreadable.exit_code == 2
    for done in (given_here, given_there, unreadable):
        assert CANARY not in done.output + str(done.exception)


@pytest.mark.security("SEC-C1")
def test_no_example_puts_a_password_on_the_command_line() -> None:
    """Neither the help nor a page nor an example shows `--dsn` with one; people copy what they read."""
    with command.make_context("asyncjobs", ["--help"], resilient_parsing=True) as context:
        texts = [verb.get_help(context) for verb in command.commands.values()]
    texts += [
        path.read_text("utf-8")
        for folder in ("docs", "examples")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".md", ".py")
    ]
    texts.append((ROOT / "README.md").read_text("utf-8"))
    assert [found for text in texts for found in re.findall(r"--dsn[ =]\S+:[^/\s]+@\S*", text)] == []


@pytest.mark.security("SEC-C1")
def test_only_the_embedded_server_starts_programs() -> None:
    """A DSN can be on no child's command line where there is no child; `test_embedded.py` looks at those there are."""
    modules_that_do = {"subprocess", "multiprocessing"}
    calls_that_do = re.compile(
        r".*\b(create_subprocess\w*|spawn\w*|exec[lv]p?e?|fork|open_process|run_process)"
    )
    starters = {
        module.room
        for module in modules()
        if modules_that_do & set(module.imports())
        or any(calls_that_do.fullmatch(name) for name, _ in module.calls())
    }
    assert starters == {"embedded"}


READING = {"list", "show", "count", "limits", "locks", "demo", "migrate", "perform", "check", "schedules"}
RUNNING = {"run", "work-off", "enqueue"}
CHANGING = {"retry", "cancel", "pause", "resume", "clear"}


@pytest.mark.security("SEC-C2")
async def test_no_verb_changes_what_is_not_named(dsn: str) -> None:
    """Each verb is known to this test; those that change jobs or queues do nothing without their ids or names."""
    assert set(command.commands) == READING | RUNNING | CHANGING
    for verb in CHANGING:
        done = await ask(verb, ASYNCJOBS_DSN=dsn)
        assert (done.exit_code, "which" in done.output) == (2, True), done.output
    for verb in ("run", "pause", "resume", "delete"):
        done = await ask("schedules", verb, ASYNCJOBS_DSN=dsn)
        assert (done.exit_code, "which" in done.output) == (2, True), done.output
    words = [["cancel", "*"], ["cancel", "0"], ["cancel", "-1"], ["retry", "1 or 1=1"], ["cancel", "1;drop"]]
    for hostile in words:
        assert (await ask(*hostile, ASYNCJOBS_DSN=dsn)).exit_code == 2


@pytest.mark.security("SEC-C4")
async def test_nothing_is_imported_that_was_not_named(dsn: str, tmp_path: Path) -> None:
    """With a DSN no code of this folder is run, though its pyproject.toml names some; nor ever that of the folder above."""
    for folder in (tmp_path, tmp_path / "below"):
        folder.mkdir(exist_ok=True)
        (folder / "trap.py").write_text("raise SystemExit('sprung')")
        (folder / "pyproject.toml").write_text('[tool.asyncjobs]\napp = "trap:jobs"\n')
    shell = Shell(tmp_path)
    done = await shell("list", "--dsn", dsn)
    assert (done.code, "sprung" in done.out + done.err) == (0, False), done.err
    (tmp_path / "below" / "pyproject.toml").unlink()
    above = await Shell(tmp_path / "below")("list")
    assert (above.code, "sprung" in above.err, "which database" in above.err) == (2, False, True)
    named = await shell("list")
    assert "sprung" in named.err
