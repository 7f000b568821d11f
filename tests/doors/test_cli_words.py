"""Words of the command line, read as values."""

from __future__ import annotations

import datetime as dt
import enum
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import attrs
import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs._engine.slots import make_pools
from asyncjobs.cli.target import split_app
from asyncjobs.cli.words import DurationWord, MomentWord, QueuesWord, merge_queues, read_inputs
from asyncjobs.errors import InvalidOption

Name = NewType("Name", str)


class Colour(enum.Enum):
    RED = "red"
    SEVEN = 7


@attrs.frozen
class Point:
    x: int
    y: int = 0


def read(word: str, declared: Any) -> Any:
    return read_inputs([word], {"it": declared}, "it")["it"]


@pytest.mark.parametrize(
    ("word", "declared", "value"),
    [
        ("it=acme", str, "acme"),
        ("it=42", str, "42"),
        ("it=null", str, "null"),
        ('it="acme"', str, '"acme"'),
        ("it=a=b", str, "a=b"),
        ("it=", str, ""),
        ("it=two\nlines", str, "two\nlines"),
        ("it=42", Name, "42"),
        ("it=42", Annotated[str, "note"], "42"),
        ("it=42", int, 42),
        ("it=42", str | None, "42"),
        ("it=null", str | None, None),
        ("it=null", int | None, None),
        ("it=42", int | str, 42),
        ("it=acme", int | str, "acme"),
        ("it=3", float, 3.0),
        ("it=1e3", float, 1000.0),
        ("it=true", bool, True),
        ("it=1.10", Decimal, Decimal("1.10")),
        ("it=2027-01-31", dt.date, dt.date(2027, 1, 31)),
        ("it=2027-01-31T09:00Z", dt.datetime, dt.datetime(2027, 1, 31, 9, tzinfo=dt.UTC)),
        ("it=12345678-1234-5678-1234-567812345678", UUID, UUID("12345678123456781234567812345678")),
        ("it=/tmp/x", Path, Path("/tmp/x")),
        ("it=red", Colour, Colour.RED),
        ("it=7", Colour, Colour.SEVEN),
        ("it=b", Literal["a", "b"], "b"),
        ("it=[1, 2]", list[int], [1, 2]),
        ('it={"x": 1}', Point, Point(1)),
        ('it={"a": [1]}', dict[str, list[int]], {"a": [1]}),
        ("it=42", Any, 42),
        ("it=acme", Any, "acme"),
    ],
)
def test_a_word_is_read_as_it_is_declared(word: str, declared: Any, value: Any) -> None:
    """Text stays text where text is declared; elsewhere it is JSON, or the text a type is stored as."""
    got = read(word, declared)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "declared", "says"),
    [
        ("it=x", int, "it=x does not fit int"),
        ("it=3.9", int, "it=3.9 does not fit int"),
        ("it=1", bool, "neither true nor false"),
        ("it=yes", bool, "neither true nor false"),
        ("it=nan", float, "finite"),
        ("it=NaN", float, "finite"),
        ("it=abc", list[str], "'abc' is not a list"),
        ('it=[1, "x"]', list[int], r"at \[1\]"),
        ("it=2027-01-31T09:00", dt.datetime, "no time zone"),
        ("it=blue", Colour, "does not fit Colour"),
        ('it={"y": 1}', Point, "x"),
        ("that=1", int, "no input 'that'; it takes it: int"),
        ("itt=1", int, "did you mean 'it'"),
        ("it", int, "name=value"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(word: str, declared: Any, says: str) -> None:
    """What does not fit is refused in one sentence that names the input."""
    with pytest.raises(click.UsageError, match=says):
        read(word, declared)


def test_an_input_is_given_once() -> None:
    """Of two values for one input neither is silently dropped."""
    with pytest.raises(click.UsageError, match="twice"):
        read_inputs(["a=1", "a=2"], {"a": int}, "it")


@given(st.integers() | st.booleans() | st.lists(st.integers()) | st.dictionaries(st.text(), st.integers()))
def test_what_a_shell_quotes_as_json_arrives(value: Any) -> None:
    """Any JSON value written after `=` is that value where anything is declared."""
    assert read(f"it={json.dumps(value)}", Any) == value


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("90", 90), ("90s", 90), ("1.5", 1.5), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("0", 0)],
)
def test_a_span_of_time(word: str, seconds: float) -> None:
    """A span is written as people write it."""
    assert DurationWord().convert(word, None, None) == seconds


@pytest.mark.parametrize("word", ["", "soon", "5 minutes", "-5", "5m!", "m5", "5w"])
def test_no_span_of_time(word: str) -> None:
    """What is no span is refused whole."""
    with pytest.raises(click.UsageError):
        DurationWord().convert(word, None, None)


def test_a_moment_needs_a_zone() -> None:
    """A moment without a zone names none."""
    assert MomentWord().convert("2027-01-31T09:00+01:00", None, None).utcoffset() == dt.timedelta(hours=1)
    with pytest.raises(click.UsageError, match="no time zone"):
        MomentWord().convert("2027-01-31T09:00", None, None)
    with pytest.raises(click.UsageError, match="not a moment"):
        MomentWord().convert("tomorrow", None, None)


def queues(*words: str) -> Any:
    return merge_queues(QueuesWord().convert(word, None, None) for word in words)


def test_queues_and_their_slots() -> None:
    """A number behind a queue's name is its slots; commas and repetition say the same."""
    assert queues("exports:4, mail") == queues("exports:4", "mail") == {"exports": 4, "mail": None}
    assert queues() is None


@pytest.mark.parametrize("words", [("a,a",), ("a", "a:1"), ("a,,b",), ("",), ("a:b",), ("a:b:3",)])
def test_queues_that_make_no_sense(words: tuple[str, ...]) -> None:
    """A queue named twice, a name left out, or one with a colon, which is before the slots, is refused."""
    with pytest.raises(click.UsageError):
        queues(*words)


def test_queues_without_a_number_share_the_slots() -> None:
    """Slots given to nobody in particular serve all queues without slots of their own."""
    one, rest = make_pools({"a": 3, "b": None, "c": None}, 7)
    assert (one.size, one.serves("a"), one.serves("b")) == (3, True, False)
    assert (rest.size, rest.serves("a"), rest.serves("b"), rest.serves("c")) == (7, False, True, True)


@pytest.mark.parametrize(
    ("given_queues", "slots"),
    [({"a": 3}, 7), ({}, None), ({"a": 0}, None), ({"a": True}, None), (None, 0), ({"a": None}, -1)],
)
def test_slots_that_make_no_sense(given_queues: dict[str, int | None] | None, slots: int | None) -> None:
    """Slots nobody could use, and numbers that are none, are refused."""
    with pytest.raises(InvalidOption):
        make_pools(given_queues, slots)


@pytest.mark.parametrize(
    ("words", "sure", "app"),
    [
        (["shop.main:jobs", "12"], True, "shop.main:jobs"),
        (["shop.main:jobs"], True, "shop.main:jobs"),
        (["12"], True, None),
        (["shop.main:Export"], False, None),
        (["shop.main:jobs", "shop.main:Export"], False, "shop.main:jobs"),
        (["mail", "exports"], False, None),
        ([], True, None),
    ],
)
def test_which_word_is_the_app(words: list[str], sure: bool, app: str | None) -> None:
    """The first word is APP when it looks like one and something is left without it."""
    assert split_app(words, sure=sure) == (app, words[1:] if app else words)
