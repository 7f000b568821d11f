"""The rules, as rules.toml has them and as SECURITY.md shows them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

import attrs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "SECURITY.md"

AREAS = {
    "S": "The library",
    "C": "The command",
    "E": "The embedded server",
    "D": "The dashboard, which does not exist yet: these come with it",
}
HELD = {"tests": "covered by tests", "dashboard": "with the dashboard"}

_RULES = re.compile(r"(<!-- rules: .*? -->\n).*(<!-- end of rules -->)", re.DOTALL)


@attrs.frozen
class Rule:
    """A rule, and how it is held."""

    id: str
    rule: str
    held: Literal["tests", "dashboard", "fact"]
    because: str = ""

    @property
    def marker(self) -> str:
        """What its tests are marked with."""
        return f"SEC-{self.id}"


def read_rules() -> list[Rule]:
    """All of them, in the order of the file."""
    table = tomllib.loads((Path(__file__).parent / "rules.toml").read_text("utf-8"))
    return [Rule(id=name, **fields) for name, fields in table.items()]


def page() -> str:
    """SECURITY.md as it should be."""
    lines = []
    for area, title in AREAS.items():
        lines += ["", f"### {title}", "", "| | | |", "|---|---|---|"]
        lines += [
            f"| {rule.marker} | {rule.rule} | {HELD.get(rule.held) or f'a fact: {rule.because}'} |"
            for rule in read_rules()
            if rule.id.startswith(area)
        ]
    text = "\n".join([*lines, "", ""])
    return _RULES.sub(lambda found: found[1] + text + found[2], PAGE.read_text("utf-8"))


def write() -> None:
    PAGE.write_text(page(), "utf-8")
