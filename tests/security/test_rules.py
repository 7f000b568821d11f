"""The rules, SECURITY.md and the tests say the same."""

from __future__ import annotations

import re

import pytest

from tests.catalogue.markers import covering
from tests.security.rules import PAGE, ROOT, Rule, page, read_rules

RULES = read_rules()
COVERED = covering("security")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.marker)
def test_a_rule_is_held_as_it_says(rule: Rule) -> None:
    """Tests carry its marker; or they do not, and it says why there is nothing to test."""
    assert (rule.marker in COVERED) == (rule.held == "tests"), COVERED.get(rule.marker)
    assert bool(rule.because) == (rule.held == "fact")
    assert (rule.held == "dashboard") == rule.id.startswith("D")


def test_every_rule_is_there() -> None:
    """Those of the study, each once: none is taken out because it is inconvenient."""
    expected = [
        f"{area}{n}" for area, last in (("S", 14), ("D", 11), ("C", 5), ("E", 4)) for n in range(1, last + 1)
    ]
    assert [rule.id for rule in RULES] == expected


def test_no_test_names_a_rule_there_is_not() -> None:
    """A typing error in a marker would leave a rule without its test."""
    assert set(COVERED) - {rule.marker for rule in RULES} == set()


def test_the_page_lists_exactly_these() -> None:
    """Otherwise: python -m tests.security."""
    assert PAGE.read_text("utf-8") == page()
    assert sorted(re.findall(r"^\| (SEC-\w+)", PAGE.read_text("utf-8"), re.MULTILINE)) == sorted(
        rule.marker for rule in RULES
    )


def test_nobody_is_sent_to_an_address() -> None:
    """A weakness is reported where the code is: no mailbox is named that nobody reads."""
    text = PAGE.read_text("utf-8")
    assert "private vulnerability report" in text
    assert re.findall(r"[\w.+-]+@[\w-]+\.\w+", text) == []


def test_the_documentation_shows_the_page() -> None:
    """As it is, not as a copy."""
    assert "{include} ../SECURITY.md" in (ROOT / "docs" / "security.md").read_text("utf-8")
