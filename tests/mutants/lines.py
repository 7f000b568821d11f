"""The 58 lines: what they say, which tests quote them, and the edit of the product that takes something of each out."""

from __future__ import annotations

import ast
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import attrs

from tests.catalogue.markers import TESTS, covering

ROOT = TESTS.parent
SOURCE = ROOT / "src"
DIFFERENCES = ROOT / "docs" / "concepts" / "differences.md"

MOST_DIFFERENCES = 8


@attrs.frozen
class Edit:
    """Words of one file of the product, and those instead."""

    file: str
    old: str
    new: str

    def path(self, source: Path = SOURCE) -> Path:
        return source / "asyncjobs" / self.file

    def applied(self, source: Path = SOURCE) -> str:
        """The file, edited. Raises LookupError where it has changed."""
        text = self.path(source).read_text("utf-8") if self.path(source).exists() else ""
        if text.count(self.old) != 1:
            raise LookupError(
                f"{self.file} has {self.old!r} {text.count(self.old)} times, and must have it once"
            )
        return text.replace(self.old, self.new)


@attrs.frozen
class Line:
    """A line of a checklist."""

    number: str
    line: str
    gone: str  #: what the edits take out
    edits: Sequence[Edit]
    also: Mapping[str, str]  #: other numbers whose tests notice, and why

    def take_out(self, tree: Path) -> None:
        """Edit a copy of the source at *tree*."""
        for edit in self.edits:
            edit.path(tree).write_text(edit.applied(tree), "utf-8")


def numbers() -> list[str]:
    """P1 to Q20, in order."""
    lengths = {"P": 7, "T": 14, "D": 17, "Q": 20}
    return [f"{letter}{n}" for letter, length in lengths.items() for n in range(1, length + 1)]


@cache
def lines() -> Mapping[str, Line]:
    """Every line, by its number."""
    told = tomllib.loads((Path(__file__).parent / "lines.toml").read_text("utf-8"))
    return {
        number: Line(
            number, each["line"], each["gone"], [Edit(**edit) for edit in each["edits"]], each.get("also", {})
        )
        for number, each in told.items()
    }


def copy_of_source(to: Path) -> Path:
    """The product's source, to be edited."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(SOURCE, to / "src", ignore=ignored))


@cache
def seed_tests() -> Mapping[str, list[str]]:
    """The tests of each line, as `file::name`."""
    return covering("seed")


def differences() -> dict[str, str]:
    """What is said of each line that is not kept, by its number."""
    parts = re.split(r"^## ", DIFFERENCES.read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for part in parts:
        heading, _, text = part.partition("\n")
        found.update(dict.fromkeys(re.findall(r"\b[PTDQ]\d+\b", heading), text.strip()))
    return found


# What the tests quote.


def words_of(text: str) -> list[str]:
    """The words of *text*, without what surrounds them."""
    bare = (word.strip("`*\"'.,;:()[]“”…") for word in re.sub(r"[/]", " ", text).split())
    return [word for word in bare if word]


def docstring_of(test: str) -> str:
    """What *test*, as `file::name`, says it is."""
    file, _, name = test.partition("::")
    return _docstrings(file)[name]


@cache
def _docstrings(file: str) -> Mapping[str, str]:
    nodes = ast.parse((TESTS / file).read_text("utf-8")).body
    tests = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {test.name: ast.get_docstring(test) or "" for test in tests}


def quoted(line: str, docstring: str) -> set[int]:
    """Which words of *line* stand in *docstring*, two in a row or in marks of their own: their places."""
    ours, theirs = words_of(line), words_of(docstring)
    marked = {word for said in re.findall(r"[\"`]([^\"`\s]+)[\"`]", docstring) for word in words_of(said)}
    pairs = set(zip(theirs, theirs[1:], strict=False))
    found = {place for place, word in enumerate(ours) if word in marked}
    for place, pair in enumerate(zip(ours, ours[1:], strict=False)):
        if pair in pairs:
            found |= {place, place + 1}
    return found


def not_quoted(number: str) -> list[str]:
    """The words of a line that none of its tests quotes."""
    line = lines()[number].line
    found: set[int] = set()
    for test in seed_tests().get(number, []):
        found |= quoted(line, docstring_of(test))
    return [word for place, word in enumerate(words_of(line)) if place not in found]
