"""Every setting of delayed_job has its equal, which its own tests hold; here, that none is missing."""

from __future__ import annotations

import re

import pytest

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


@pytest.mark.seed("D2")
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_an_equal(setting: str) -> None:
    """D2: "every setting above has an equal (or documented reason)": the guide says which, and runs what it says."""
    text = (ROOT / "docs" / "guides" / "command-line.md").read_text()
    table = text.partition("## The settings of delayed_job")[2].partition("\n## ")[0]
    row = re.search(rf"^\|[^|]*`{setting}`[^|]*\|(.+)\|$", table, re.MULTILINE)
    assert row is not None
    assert len(row[1].strip()) > 10
