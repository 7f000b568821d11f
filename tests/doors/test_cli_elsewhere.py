"""Who types another system's verb or flag is told ours."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from asyncjobs.cli.elsewhere import FLAGS, VERBS
from asyncjobs.cli.main import asyncjobs


def test_a_verb_of_theirs_is_translated() -> None:
    """`purge` is no typo of `pause`."""
    done = CliRunner().invoke(asyncjobs, ["purge"])
    assert (done.exit_code, "No such command 'purge': it is `clear`" in done.output) == (2, True)


@pytest.mark.parametrize("words", [["run", "app:jobs", "--burst"], ["run", "-c", "4", "app:jobs"]])
def test_a_flag_of_theirs_is_translated(words: list[str]) -> None:
    """It is refused, and ours is named."""
    done = CliRunner().invoke(asyncjobs, words)
    (flag,) = set(words) & FLAGS.keys()
    assert (done.exit_code, f"No such option '{flag}': it is {FLAGS[flag]}" in done.output) == (2, True), (
        done.output
    )


def test_what_is_translated_to_is_there_and_nothing_of_ours_is_hidden() -> None:
    """The tables name verbs and flags there are, for words that are none."""
    ours = asyncjobs.commands
    flags = {flag for each in ours["run"].params for flag in each.opts}
    assert VERBS.keys() & ours.keys() == set()
    assert [said for said in VERBS.values() if not any(f"`{verb}" in said for verb in ours)] == []
    assert FLAGS.keys() & flags == set()
    assert set(FLAGS.values()) <= flags
