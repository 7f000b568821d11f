"""The catalogue of failure modes is complete, and the page made of it is honest."""

from __future__ import annotations

import re

import pytest

from tests.catalogue.markers import covering
from tests.catalogue.page import PAGE, page, read_catalogue

MODES = {mode.id: mode for area in read_catalogue() for mode in area.modes}


def test_every_mode_is_there() -> None:
    """F01 to F121, each once, in order; nothing is taken out because it is inconvenient."""
    assert list(MODES) == [f"F{number:02}" for number in range(1, 122)]


def test_no_test_names_a_mode_there_is_not() -> None:
    """A typing error in a marker would leave a mode without its test."""
    assert set(covering("failure_mode")) - set(MODES) == set()


def test_every_mode_is_decided() -> None:
    """Made to happen by a test, or it says why not."""
    tested = set(covering("failure_mode"))
    assert [mode.id for mode in MODES.values() if not (mode.id in tested or mode.cannot or mode.open)] == []


def test_what_cannot_happen_or_is_open_has_no_test() -> None:
    """A mode is one of the three."""
    said = {mode.id for mode in MODES.values() if mode.cannot or mode.open}
    assert said & set(covering("failure_mode")) == set()
    assert [mode.id for mode in MODES.values() if mode.cannot and mode.open] == []


def test_the_page_is_as_it_would_be_written_now() -> None:
    """Otherwise: python -m tests.catalogue."""
    assert PAGE.read_text() == page()


def test_the_page_names_tests_that_exist() -> None:
    """In files that exist, by names that are there."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text())
    tests = PAGE.parents[1] / "tests"
    assert [each for each in named if not re.search(rf"\b{each[1]}\b", (tests / each[0]).read_text())] == []


@pytest.mark.parametrize(
    "code", ["def helper(): ...", "@pytest.mark.failure_mode(WHICH)\ndef test_it(): ..."]
)
def test_markers_that_would_go_unseen_are_refused(code: str, tmp_path) -> None:
    """On what is no test, or with ids that are not written out."""
    marked = code if "failure_mode" in code else f"@pytest.mark.failure_mode('F01')\n{code}"
    (tmp_path / "test_it.py").write_text(f"import pytest\n{marked}\n")
    with pytest.raises(ValueError, match=r"is no test|literal strings"):
        covering("failure_mode", tmp_path)
