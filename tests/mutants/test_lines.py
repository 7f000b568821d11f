"""Every line of the seeds' checklists has its tests, which quote it, and an edit that takes it out. `nox -s mutants` makes the edits."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.lines import (
    MOST_DIFFERENCES,
    Edit,
    copy_of_source,
    differences,
    docstring_of,
    lines,
    not_quoted,
    numbers,
    quoted,
    seed_tests,
    words_of,
)
from tests.mutants.public import private_in


def test_there_are_58_lines() -> None:
    """P1 to Q20, each with its words, an edit, and a test; and no test names another."""
    assert list(lines()) == numbers()
    assert len(numbers()) == 58
    assert seed_tests().keys() == lines().keys()
    for line in lines().values():
        assert line.line
        assert line.gone
        assert line.edits, line.number


def test_tests_quote_their_line() -> None:
    """All of it: what is not quoted is not tested."""
    assert {number: words for number in numbers() if (words := not_quoted(number))} == {}


def test_tests_use_the_public_api_alone() -> None:
    """What its users have."""
    tests = {test for tests in seed_tests().values() for test in tests}
    assert {test: private for test in sorted(tests) if (private := private_in(test))} == {}


def test_the_edits_can_be_made() -> None:
    """The words stand where they stood, once, and Python can still read what comes of it. A LookupError says which to mend."""
    for line in lines().values():
        for edit in line.edits:
            edited = edit.applied()
            assert edited != edit.path().read_text("utf-8")
            if edit.file.endswith(".py"):
                ast.parse(edited)


def test_others_that_notice_are_lines_too() -> None:
    """With a reason."""
    for line in lines().values():
        for other, why in line.also.items():
            assert other in lines()
            assert other != line.number
            assert len(why) > 10


def test_few_lines_are_not_kept_to_the_letter() -> None:
    """And what is different says what to use instead."""
    found = differences()
    assert found.keys() <= lines().keys()
    assert len(found) <= MOST_DIFFERENCES
    for text in found.values():
        assert "nstead" in text


def test_words_that_are_gone_are_an_error(tmp_path: Path) -> None:
    """A source that was rewritten takes its edits along; and the source itself is never edited."""
    with pytest.raises(LookupError, match="'nobody wrote this' 0 times"):
        Edit("_app/jobs.py", "nobody wrote this", "").applied()
    line = lines()["D8"]
    before = line.edits[0].path().read_text("utf-8")
    tree = copy_of_source(tmp_path)
    line.take_out(tree)
    assert line.edits[0].new in line.edits[0].path(tree).read_text("utf-8")
    assert line.edits[0].path().read_text("utf-8") == before


def test_a_quotation_is_two_words_in_a_row() -> None:
    """Or one in marks of its own."""
    line = "`needed?`: async predicate evaluated before work"
    said = words_of(line)
    assert {said[place] for place in quoted(line, 'T12 "needed?", and some async predicate')} == {
        "needed?",
        "async",
        "predicate",
    }
    assert quoted(line, "work that is needed") == set()


def test_what_is_private_is_found() -> None:
    """Also where a fixture or a helper reaches for it."""
    assert private_in("engine/test_order.py::test_what_waits_is_in_order")
    assert private_in("flows/test_queues.py::test_what_nobody_here_takes_costs_nothing")
    assert not private_in("seeds/test_process_later.py::test_the_same_object_now")
    assert docstring_of("seeds/test_process_later.py::test_the_same_object_now").startswith("P3 ")
