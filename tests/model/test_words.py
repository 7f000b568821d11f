"""Numbers in sentences."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from asyncjobs._model.words import counted

MEASURES = {"characters", "connections"}  #: of what is never one


@given(st.integers(0, 10**9), st.sampled_from(["job", "kind of jobs"]))
def test_one_is_one(number: int, noun: str) -> None:
    """Of one thing nothing is said as of several, nor the other way round."""
    said = counted(number, noun)
    assert said.startswith(f"{number:,} ")
    assert (said.partition(" ")[2] == noun) == (number == 1)


def test_what_is_counted() -> None:
    """The first word takes the s."""
    assert [counted(n, "job") for n in (0, 1, 2, 2000)] == ["0 jobs", "1 job", "2 jobs", "2,000 jobs"]
    assert counted(3, "kind of jobs") == "3 kinds of jobs"


def test_nothing_is_counted_by_hand() -> None:
    """No sentence has a number in front of several jobs, slots, … that may be one."""
    nouns = "jobs|slots|kinds|locks|runners|queues|schedules"
    written = re.compile(rf"(?:%[sd]|\{{[^{{}}]*\}}) (?:{nouns})\b")
    found = [
        f"{file.name}: {match[0]}"
        for file in sorted(Path(str(files("asyncjobs"))).rglob("*.py"))
        for match in written.finditer(file.read_text("utf-8"))
        if file.parent.name != "demo"
    ]
    assert [each for each in found if "enqueued.py" not in each] == []
