"""Who gets an event: the database and the model agree, for all names, patterns, attributes and what they must be."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import attrs
import orjson
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from asyncjobs._model.events import BLANKS, Is, Subscription, check_where, matches, names_of, same_json
from asyncjobs._model.patterns import as_read_here, glob_to_like, glob_to_regex, to_postgres
from asyncjobs._store.bus import declare_subscriptions, publish_event
from asyncjobs._store.session import Session
from asyncjobs.errors import InvalidOption
from tests.store.jobs import session_of

RELAXED = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

letters = st.sampled_from("ab_.%\\-*?é𝔸")
words = st.text(letters, min_size=1, max_size=4)
names = st.sampled_from(["a", "ab", "a_b", "user_changed"]) | words.filter(lambda name: not {*"*?"} & {*name})
keys = st.sampled_from(["a", "b", "é", ""])
texts = st.text(st.sampled_from("ab.\n" + BLANKS + "\xa0é"), max_size=3)
numbers = (
    st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 1.0, -0.0])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
TELLING: list[Any] = [
    None,
    "",
    " ",
    "\f\n",
    "\xa0",
    "a",
    "1",
    [],
    {},
    0,
    1,
    1.0,
    True,
    False,
    [1],
    [1.0],
    [True],
    {"a": 1},
    {"a": None},
]
"""Values that one matcher or another tells apart."""
events = st.dictionaries(st.sampled_from(["a", "b"]) | keys, st.sampled_from(TELLING) | values, max_size=3)

# Regular expressions, made of what may be said in them.
ones = st.sampled_from(
    [
        *"ab_-% é",
        r"\.",
        r"\\",
        r"\-",
        ".",
        r"\d",
        r"\w",
        r"\s",
        "[ab]",
        "[^a]",
        "[a-c_]",
        r"[\]\-^]",
        r"[^\d.]",
        "[]a]",
        "[a-]",
        r"\n",
    ]
)
regexes_text: st.SearchStrategy[str] = st.recursive(
    ones | st.sampled_from(["^", "$", r"\A", r"\Z", ""]),
    lambda inner: (
        st.builds("{}{}".format, inner, inner)
        | st.builds("(?:{}|{})".format, inner, inner)
        | st.builds("({})".format, inner)
        | st.builds(
            "(?:{}){}".format,
            inner,
            st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,3}", "*?", "+?", "{1,2}?"]),
        )
    ),
    max_leaves=6,
)
regexes = regexes_text.map(re.compile)
subscribed = st.sampled_from(["*", "a*", "ab"]) | names | words | regexes
wanted = st.sampled_from(Is) | st.sampled_from(TELLING) | values | regexes


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    event = draw(subscribed)
    where = draw(st.none() | st.dictionaries(st.sampled_from(["a", "b"]) | keys, wanted, max_size=2))
    assume(not isinstance(event, str) or not event.isspace())
    return Subscription(
        name="", **names_of(event), where=check_where(where), kind="k", queue="q", priority=0, max_attempts=1
    )


@asynccontextmanager
async def undone(dsn: str) -> AsyncIterator[Session]:
    async with session_of(dsn) as session:
        transaction: Any = session.connection.transaction()
        await transaction.start()
        yield session
        await transaction.rollback()


async def found(session: Session, name: str, attributes: Mapping[str, Any]) -> set[str]:
    """The subscriptions that got a job."""
    stored = await publish_event(session, name, orjson.dumps(attributes).decode(), '{"event": {}}')
    rows = await session.connection.fetch(
        "select meta -> 'event' ->> 'subscription' from asyncjobs.live_jobs where id = any ($1::bigint[])",
        [each.id for each in stored],
    )
    assert len({row[0] for row in rows}) == len(stored), "no subscription gets two"
    return {row[0] for row in rows}


@RELAXED
@given(
    st.lists(subscriptions(), min_size=1, max_size=6),
    st.lists(st.tuples(names, events), min_size=1, max_size=4),
)
async def test_the_database_finds_the_subscriptions_the_model_finds(
    dsn: str, given_: list[Subscription], published: list[tuple[str, dict[str, Any]]]
) -> None:
    """ "names, globs/regex, attribute matchers": one job for each subscription that matches, and for no other."""
    numbered = [attrs.evolve(each, name=str(number)) for number, each in enumerate(given_)]
    async with undone(dsn) as session:
        await declare_subscriptions(session, "app", numbered)
        for name, attributes in published:
            expected = {each.name for each in numbered if matches(each, name, attributes)}
            assert await found(session, name, attributes) == expected


async def test_every_matcher_for_every_value_that_tells(dsn: str) -> None:
    """ "attribute matchers": all words and literals, against each of these values and against none."""
    said: list[Any] = [*Is, *TELLING, re.compile("a|1")]
    numbered = [
        Subscription(
            name=str(number), event="e", where={"x": each}, kind="k", queue="q", priority=0, max_attempts=1
        )
        for number, each in enumerate(said)
    ]
    async with undone(dsn) as session:
        await declare_subscriptions(session, "app", numbered)
        for attributes in [{}, {"y": 1}, *({"x": value} for value in TELLING)]:
            expected = {each.name for each in numbered if matches(each, "e", attributes)}
            assert await found(session, "e", attributes) == expected, attributes


@RELAXED
@given(regexes, st.lists(texts | words, min_size=1, max_size=5))
@example(re.compile("a$"), ["a\n", "a", "a\n\n"])
@example(re.compile("."), ["\n"])
@example(re.compile(r"\d"), ["٣", "3"])
@example(re.compile("a{2"), ["aa", "a{2"])
@example(re.compile("(a|b)+?$"), ["ab", "abc"])
@example(re.compile("^a{,2}$"), ["", "aa", "aaa", "a{,2}"])
@example(re.compile("^a{,}$"), ["", "aaa", "a{,}"])
@example(re.compile("^a{}$"), ["", "aaa", "a{}"])
@example(re.compile("^a{٣}$"), ["aaa", "a{٣}"])
async def test_a_regular_expression_means_in_the_database_what_it_means_here(
    dsn: str, pattern: re.Pattern[str], given_: list[str]
) -> None:
    """Whatever is let through is read alike."""
    async with undone(dsn) as session:
        said = await session.connection.fetch(
            "select text ~ $1::text from unnest($2::text[]) with ordinality each (text, place) order by place",
            to_postgres(pattern, "p"),
            given_,
        )
    assert [row[0] for row in said] == [as_read_here(pattern).search(text) is not None for text in given_]


@RELAXED
@given(words, st.lists(words, min_size=1, max_size=5))
async def test_a_glob_means_in_the_database_what_it_means_here(
    dsn: str, glob: str, given_: list[str]
) -> None:
    """`*` is any text and `?` one character; what LIKE reads otherwise is itself."""
    async with undone(dsn) as session:
        said = await session.connection.fetch(
            "select text like $1::text from unnest($2::text[]) with ordinality each (text, place) order by place",
            glob_to_like(glob),
            given_,
        )
    assert [row[0] for row in said] == [glob_to_regex(glob).search(text) is not None for text in given_]


@given(st.text(st.sampled_from("ab01(){}[]|*+?^$\\.-,:<>=!dDwWsSbBAZPi&#~"), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_pattern_python_takes_is_refused_or_read_by_the_database(dsn: str, text: str) -> None:
    """Nobody's publish fails because of a pattern of somebody else's, and none is read otherwise."""
    try:
        pattern = re.compile(text)
    except (re.error, FutureWarning, DeprecationWarning):
        return
    try:
        translated = to_postgres(pattern, "p")
    except InvalidOption:
        return
    connection = await _shared(dsn)
    for given_ in ("", "a", "b", "ab", "ba1", "0", "aab", "-", "^", "(", "{", "}", ",", "a{1", "]", "a]"):
        here = as_read_here(pattern).search(given_) is not None
        assert await connection.fetchval("select $1::text ~ $2::text", given_, translated) is here, given_


_connections: dict[str, Any] = {}


async def _shared(dsn: str) -> Any:
    if dsn not in _connections:
        for other in _connections.values():
            await other.close()
        _connections.clear()
        _connections[dsn] = await asyncpg.connect(dsn)
    return _connections[dsn]


@pytest.fixture(scope="module", autouse=True)
async def _closed(anyio_backend: str) -> AsyncIterator[None]:
    yield
    for connection in _connections.values():
        await connection.close()
    _connections.clear()


@given(values, values)
def test_equality_of_json_is_an_equivalence(one: Any, other: Any) -> None:
    """Each value is itself, and it does not matter which is asked."""
    assert same_json(one, one)
    assert same_json(one, other) is same_json(other, one)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(1, 1.0, True), (1, True, False), (0, False, False), (None, False, False), ("1", 1, False)],
)
def test_json_knows_numbers_from_truth(one: Any, other: Any, same: bool) -> None:
    """In Python 1 equals True."""
    assert same_json(one, other) is same


@pytest.mark.parametrize(
    ("word", "fits"),
    [
        (Is.KEY, {"null", '""', '" "', "[]", "0", "false", '"x"'}),
        (Is.VALUE, {'""', '" "', "[]", "0", "false", '"x"'}),
        (Is.NIL, {"absent", "null"}),
        (Is.EMPTY, {'""', "[]"}),
        (Is.BLANK, {"absent", "null", '""', '" "', "[]"}),
        (Is.PRESENT, {"0", "false", '"x"'}),
    ],
)
def test_words_for_attributes(word: Is, fits: set[str]) -> None:
    """ "attribute matchers": key, value, nil, empty, blank and present, as queue-bus has them."""
    said = Subscription(
        name="s", event="e", where={"a": word}, kind="k", queue="q", priority=0, max_attempts=1
    )
    for value in ("absent", "null", '""', '" "', "[]", "0", "false", '"x"'):
        attributes = {} if value == "absent" else {"a": orjson.loads(value)}
        assert matches(said, "e", attributes) is (value in fits), value


@pytest.mark.parametrize(
    "text",
    [
        "(?=a)",
        "(?P<n>a)",
        r"(a)\1",
        "(?i:a)",
        r"\bа",
        r"\D",
        r"[\D]",
        "a++",
        "(?>a)",
        "[[]",
        "x{256}",
        "^*",
        "(?#c)",
        "a" * 1001,
        "(a{255}){255}",
        "((?:ab|c){100}d){15}",
        "a\0",
        "\ud800",
    ],
)
def test_what_the_two_read_otherwise_is_refused(text: str) -> None:
    """In words, where it is written."""
    try:
        pattern = re.compile(text)
    except re.error:  # an older Python's
        return
    except FutureWarning:
        return
    with pytest.raises(InvalidOption, match="database|characters"):
        to_postgres(pattern, "p")


@pytest.mark.parametrize(
    "text", ["a{255}", "(a{3}b){200}", "(a|b{2}){,100}", "x" * 1000, "(?:(?:ab)?c*){99}"]
)
def test_what_counts_within_reason_is_read(text: str) -> None:
    """Each character counts as often as it is repeated."""
    assert to_postgres(re.compile(text), "p")


@pytest.mark.parametrize("pattern", [re.compile("a", re.IGNORECASE), re.compile(b"a"), re.compile("(?s).")])
def test_flags_and_bytes_are_refused(pattern: Any) -> None:
    """Their meaning differs with the language of the database."""
    with pytest.raises(InvalidOption, match="without flags"):
        to_postgres(pattern, "p")
