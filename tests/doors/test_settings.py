"""Every setting of delayed_job has its equal, which its own tests hold; here, that none is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature

import pytest

from asyncjobs import JobOptions, Jobs
from tests.pages import ROOT

SETTINGS = [
    "sleep_delay",
    "max_attempts",
    "max_run_time",
    "default_priority",
    "delay_jobs",
    "queues",
    "queue_attributes",
    "read_ahead",
    "default_queue_name",
    "destroy_failed_jobs",
    "raise_signal_exceptions",
    "min_priority",
    "max_priority",
    "exit_on_complete",
    "plugins",
    "default_log_level",
    "logger",
    "backend",
]


def table() -> str:
    """What the guide says of them."""
    text = (ROOT / "docs" / "guides" / "command-line.md").read_text()
    return text.partition("## The settings of delayed_job")[2].partition("\n## ")[0]


@pytest.mark.seed("D2")
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_an_equal(setting: str) -> None:
    """D2: "every setting above has an equal (or documented reason)": the guide says which, and runs what it says."""
    row = re.search(rf"^\|[^|]*`{setting}`[^|]*\|(.+)\|$", table(), re.MULTILINE)
    assert row is not None
    assert len(row[1].strip()) > 10


@pytest.mark.seed("D2")
def test_the_equals_are_there() -> None:
    """D2: "every setting above has an equal": arguments of Jobs, options of jobs, and of the command, which knows theirs too."""
    assert re.findall(r"`Jobs\((\w+)=", table())
    assert set(re.findall(r"`Jobs\((\w+)=", table())) <= signature(Jobs).parameters.keys()
    options = {*JobOptions.__annotations__, "keep_failed", "overtime"}
    assert set(re.findall(r"the option `(\w+)`", table())) <= options
    command = [sys.executable, "-m", "asyncjobs", "run", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    flags = [*re.findall(r"(--[a-z][\w-]+)", table()), "--exit-on-complete"]
    assert [flag for flag in flags if flag not in told] == []
