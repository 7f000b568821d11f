"""docs/failure-modes.md, from the catalogue and the tests' markers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from tests.catalogue.markers import covering

MODES = Path(__file__).parent / "modes.toml"
PAGE = Path(__file__).parents[2] / "docs" / "failure-modes.md"
NOT_YET = "no test yet"

HEAD = """\
<!-- Written by `python -m tests.catalogue` from tests/catalogue/modes.toml and the tests' markers. Edit those. -->

# What can go wrong

The ways in which a job runner fails, from incidents and issues of others and from experiments of our own; what asyncjobs does in each;
and which tests make it happen. Tests in `faults/` harm real processes and servers and are run by `python3 noxfile.py faults`, all others
with every change.

| | |
|---|---|
| {tested} | are made to happen by a test |
| {cannot} | cannot happen here, because of the fact that is named |
| {open} | are open: no test shows yet what happens |
"""


@attrs.frozen
class Mode:
    """One way to fail."""

    id: str
    trigger: str
    here: str
    cannot: str | None = None
    open: str | None = None


@attrs.frozen
class Area:
    """Modes that belong together."""

    title: str
    modes: Sequence[Mode]


def read_catalogue(path: Path = MODES) -> list[Area]:
    """The areas and their modes, in the file's order."""
    areas = []
    for area in tomllib.loads(path.read_text()).values():
        title = area.pop("title")
        areas.append(Area(title, [Mode(id=each, **said) for each, said in area.items()]))
    return areas


def page() -> str:
    """The page as it should be now."""
    areas, tests = read_catalogue(), covering("failure_mode")
    lines = (line for area in areas for line in _area(area, tests))
    return "\n".join([HEAD.format(**counts()), *lines])


def counts() -> dict[str, int]:
    """How many modes are tested, cannot happen, and are open."""
    tests = covering("failure_mode")
    modes = [mode for area in read_catalogue() for mode in area.modes]
    cannot = sum(mode.cannot is not None for mode in modes)
    tested = sum(mode.id in tests for mode in modes)
    return {"tested": tested, "cannot": cannot, "open": len(modes) - tested - cannot}


def _area(area: Area, tests: Mapping[str, Sequence[str]]) -> list[str]:
    rows = [_row(mode, tests.get(mode.id, ())) for mode in area.modes]
    return [
        f"## {area.title}",
        "",
        "| | what happens | what asyncjobs does | shown by |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _row(mode: Mode, tests: Sequence[str]) -> str:
    if mode.cannot is not None:
        shown = f"*cannot happen:* {mode.cannot}"
    elif tests:
        shown = "<br>".join(f"`{test}`" for test in tests)
    else:
        shown = f"**open:** {mode.open or NOT_YET}"
    return f"| {mode.id} | {mode.trigger} | {mode.here} | {shown} |"
