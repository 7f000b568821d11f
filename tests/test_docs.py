"""What the documentation shows is what works: every page is run, on a database of its own."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import asyncjobs.errors
from asyncjobs import JobState
from asyncjobs._model.states import TRANSITIONS
from tests.pages import ROOT, blocks_of, run_page

DOCS = ROOT / "docs"
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_build", "decisions"} & set(path.relative_to(DOCS).parts)
)
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.timeout(300)  # some pages run twenty commands, a process each
@pytest.mark.parametrize("path", PAGES, ids=NAMES)
async def test_a_page_works(path: Path, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the page runs, in order, and commands say what the page says."""

    async def from_top_to_bottom() -> None:
        async with run_page(path, dsn, tmp_path, monkeypatch) as page:
            await page.run()

    await asyncio.create_task(from_top_to_bottom())  # with context variables of its own, which a page may set


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_a_page_holds_nothing_that_is_not_run(path: Path) -> None:
    """A block is run, or says aloud that it is text: a language nobody runs cannot hide a stale example."""
    known = {"python", "sql", "console", "text", "mermaid", "toml", "ini"}
    if path.parent.name == "coming-from":
        known |= {"ruby"}  # what others' programs are written in; ours never are
    strange = [(block.line, block.language) for block in blocks_of(path.read_text())]
    assert [each for each in strange if each[1] not in known and not each[1].startswith("{")] == []


@pytest.mark.parametrize(
    ("name", "letter", "lines"),
    [("process_later", "P", 7), ("tresque", "T", 14), ("delayed_job", "D", 17), ("que", "Q", 20)],
)
def test_whoever_comes_from_a_seed_finds_each_line(name: str, letter: str, lines: int) -> None:
    """What their users rely on has its row, each once and in order, and says what there is here."""
    text = (DOCS / "coming-from" / f"{name}.md").read_text()
    rows = re.findall(rf"^\| ({letter}\d+) \|[^|]*\| *(\S.*\S) *\|$", text, re.MULTILINE)
    assert [number for number, _ in rows] == [f"{letter}{number}" for number in range(1, lines + 1)]


def test_the_diagram_of_the_lifecycle_is_the_table() -> None:
    """The arrows drawn are the transitions there are."""
    text = (DOCS / "concepts" / "lifecycle.md").read_text()
    (diagram,) = (block.code for block in blocks_of(text) if "stateDiagram" in block.code)
    drawn = set(re.findall(r"^ *(\w+) --> (\w+)", diagram, re.MULTILINE))
    assert drawn == {(start.value, end.value) for start, ends in TRANSITIONS.items() for end in ends}


def test_the_lifecycle_names_every_state() -> None:
    """Each state has its line."""
    text = (DOCS / "concepts" / "lifecycle.md").read_text()
    assert {state.value for state in JobState} == set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))


def test_the_reference_has_every_public_name() -> None:
    """What can be imported from asyncjobs is described."""
    text = (DOCS / "reference" / "index.md").read_text()
    described = {*re.findall(r"auto\w+:: (\w+)", text), *vars(asyncjobs.errors)}
    assert set(asyncjobs.__all__) - described == set()
