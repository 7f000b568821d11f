"""What the run of a mutant writes down, a line of JSON for each beginning and end of a test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(path: Path, **words: Any) -> None:
    with path.open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(words) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text("utf-8").splitlines())


def ended(path: Path) -> dict[str, dict[str, Any]]:
    """Of each test that has ended, by its id, what became of it."""
    return {each["ended"]: each for each in read(path) if "ended" in each}


def hung(path: Path) -> dict[str, dict[str, Any]]:
    """The tests that began, and whose end nobody wrote down."""
    over = ended(path)
    return {each["began"]: each for each in read(path) if "began" in each and each["began"] not in over}
