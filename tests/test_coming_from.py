"""The pages for who comes from another system: what their tables say there is here, is."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

import asyncjobs.testing
from asyncjobs import CurrentJob, Handle, Jobs
from asyncjobs._define.hooks import HOOKS
from asyncjobs._enqueue.options import LATER_WORDS
from asyncjobs._model.options import DEFINITION_WORDS
from asyncjobs.cli.main import asyncjobs as command
from tests.pages import ROOT, blocks_of

PAGES = sorted((ROOT / "docs" / "coming-from").glob("*.md"))
NAMES = [path.stem for path in PAGES]
OPTIONS = DEFINITION_WORDS | LATER_WORDS
FLAGS = {flag for verb in command.commands.values() for each in verb.params for flag in each.opts}


def ours(text: str) -> Iterator[str]:
    """What stands in code on our side of the tables: each last cell of a table whose last column is asyncjobs'."""
    for table in re.findall(r"^\|[^\n]*\| asyncjobs \|\n\|[-|]+\|\n((?:\|[^\n]*\|\n?)+)", text, re.MULTILINE):
        for row in table.splitlines():
            yield from re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\| ", row.rstrip(" |"))[-1])


def strange(code: str) -> Iterator[str]:
    """The words of *code* that look like ours, and are not."""
    has = {
        r"\bjobs\.(\w+)": set(dir(Jobs)),
        r"\bhandle\.(\w+)": {*dir(Handle), "id", "created"},
        r"\bcurrent_job\(\)\.(\w+)": {*dir(CurrentJob), *get_type_hints(CurrentJob)},
        r"\bJobs\((\w+)=": set(inspect.signature(Jobs).parameters),
        r"\.set\((\w+)=": LATER_WORDS,
        r"^(\w+)=": OPTIONS | {"until"},
        r"^([A-Z][a-z]\w+)\b": {*asyncjobs.__all__, "ExportStations", "CancelledError"},
        r"python -m asyncjobs ([\w-]+)": set(command.commands),
        r"(?<![\w-])(--[a-z][\w-]+)": FLAGS,
        r"^(on_\w+|reschedule_at)\b": set(HOOKS),
        r"^(\w*enqueued|drain|inline)$": set(asyncjobs.testing.__all__),
    }
    for pattern, known in has.items():
        yield from (word for word in re.findall(pattern, code) if word not in known)


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_what_a_page_translates_to_is_there(path: Path) -> None:
    """Methods, options, verbs and flags on our side of its tables exist."""
    text = path.read_text()
    others = {"--limit-max-requests", "--reload"}  # uvicorn's
    assert [word for code in ours(text) for word in strange(code) if word not in others] == []
    assert [word for word in re.findall(r"\boptions? `(\w+)`", text) if word not in OPTIONS] == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_the_other_program_is_python(path: Path) -> None:
    """A file a page shows and nothing imports can at least be parsed."""
    for block in blocks_of(path.read_text()):
        if block.caption is not None and block.caption.endswith(".py"):
            ast.parse(block.code)


def test_a_word_that_is_not_there_is_seen() -> None:
    """The test above can fail."""
    table = "| theirs | asyncjobs |\n|---|---|\n| `x \\| y` | `jobs.fly()`, `Jobs(wings=…)`, `Bird(1)`, `--fast` |\n"
    found = [word for code in ours(table) for word in strange(code)]
    assert found == ["fly", "wings", "Bird", "--fast"]
