"""One vocabulary of options, and one order in which they are heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Backoff, Constant, Exponential, InvalidOption, JobOptions, Later, LaterOptions, job
from asyncjobs._define.codec import Codec
from asyncjobs._enqueue.options import LATER_WORDS
from asyncjobs._model.backoff import backoff_from_json
from asyncjobs._model.job import NewJob
from asyncjobs._model.options import DEFAULTS, DEFINITION_WORDS, JOB_WORDS, DefinitionOptions
from tests.kinds import forgotten

names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
durations = st.floats(0.001, 3600) | st.timedeltas(timedelta(milliseconds=1), timedelta(days=1))
backoffs = st.builds(Exponential, durations, durations) | st.builds(Constant, durations)
options = st.fixed_dictionaries(
    {},
    optional={
        "queue": names,
        "app": st.none() | names,
        "priority": st.integers(-32768, 32767),
        "max_attempts": st.integers(1, 32767),
        "timeout": st.none() | durations,
        "backoff": backoffs,
        "tags": st.lists(names, max_size=3),
        "meta": st.dictionaries(names, st.integers(0, 9), max_size=2),
    },
)
"""Whatever may be said of a job."""


def said(new: NewJob, defined: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored job will be run with: by its row, and for the rest by its definition."""
    own = new.options or {}
    return {
        "queue": new.queue,
        "priority": new.priority,
        "max_attempts": new.max_attempts,
        "timeout": _seconds(own["timeout"] if "timeout" in own else defined["timeout"]),
        "backoff": backoff_from_json(own["backoff"]) if "backoff" in own else defined["backoff"],
        "tags": list(new.tags or ()),
        "meta": Codec().load(new.meta, what="meta") if new.meta is not None else {},
    }


def expected(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The last layer that says a word is heard."""
    merged: dict[str, Any] = {"tags": [], "meta": {}, "priority": 0}
    for layer in (DEFAULTS, *layers):
        merged.update(layer)
    app = merged.pop("app", None)
    queue = merged["queue"] if app is None else f"{app.replace('.', '_')}_{merged['queue']}"
    return {**merged, "queue": queue, "timeout": _seconds(merged["timeout"])}


def _seconds(timeout: timedelta | float | None) -> float | None:
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


@given(options, options, options, options, options, options)
@forgotten()
def test_the_nearest_word_is_heard(  # noqa: PLR0917
    of_base: Any, of_other_base: Any, of_class: Any, of_job: Any, of_set: Any, of_call: Any
) -> None:
    """later > set > @job > class > bases, the nearest first > defaults: for every word and every combination."""

    class Base(Later, kind="laws:Base", **of_base):
        pass

    class Other(Later, kind="laws:Other", **of_other_base):
        pass

    class Export(Base, Other, kind="laws:Export", **of_class):
        async def call(self) -> None: ...

        @job(**of_job)
        async def method(self) -> None: ...

    codec = Codec()
    inherited = (of_other_base, of_base, of_class)
    for prepared, layers in (
        (Export().prepare("call"), inherited),
        (Export().prepare("call", **of_call), (*inherited, of_call)),
        (Export().method.prepare(), (*inherited, of_job)),
        (Export().prepare("method", **of_call), (*inherited, of_job, of_call)),
        (Export().method.set(**of_set).prepare(), (*inherited, of_job, of_set)),
        (Export().method.set(**of_set).set(**of_call).prepare(), (*inherited, of_job, of_set, of_call)),
    ):
        assert said(prepared.new_job(codec), prepared.defined) == expected(*layers)


@given(options, options, options)
@forgotten()
def test_a_function_has_its_own_words(of_job: Any, of_set: Any, of_call: Any) -> None:
    """set > @job > defaults."""

    @job(kind="laws:function", **of_job)
    async def function() -> None: ...

    prepared = function.set(**of_set).set(**of_call).prepare()
    assert said(prepared.new_job(Codec()), prepared.defined) == expected(of_job, of_set, of_call)


@forgotten()
def test_a_kind_is_not_inherited() -> None:
    """Two classes of one kind could not be told apart."""

    class Named(Later, kind="laws:Named", queue="q"):
        async def call(self) -> None: ...

    class Inherits(Named):
        pass

    class NamedToo(Named, kind="laws:NamedToo"):
        pass

    assert NamedToo().prepare("call").kind == "laws:NamedToo"
    assert NamedToo().prepare("call").defined["queue"] == "q"
    assert Inherits.__asyncjobs_service__.kind.endswith("Inherits")  # type: ignore[attr-defined]


def test_one_typed_dict_says_the_words() -> None:
    """Checkers and the run time know the same words."""
    assert set(JobOptions.__annotations__) == JOB_WORDS
    assert (
        set(DefinitionOptions.__annotations__)
        == DEFINITION_WORDS
        == JOB_WORDS
        | {"kind", "placement", "keep", "keep_failed", "overtime"}
        | {"aliases", "renamed", "version", "upcasters"}
    )
    assert set(LaterOptions.__annotations__) == LATER_WORDS == JOB_WORDS | {"on", "jobs", "delay", "at"}


# What makes no sense is refused where it is written.


class Code:
    def delay(self, attempt: int, dice: float) -> float:
        return 1.0


LONG = "q" * 121
OF_A_JOB: list[tuple[str, Any, str]] = [
    ("queue", "", "queue='' is not a name; use 1 to 120 characters"),
    ("queue", " ", "queue=' ' is not a name"),
    ("queue", "a\x00b", "is not a name; use 1 to 120 characters, no control characters"),
    ("queue", "a\nb", "is not a name"),
    ("queue", "a\n", "is not a name"),
    ("queue", "\x1bq", "is not a name"),
    ("queue", LONG, "is not a name"),
    ("queue", "\ud800", "holds a lone surrogate"),
    ("queue", 3, "queue=3 is not a name"),
    ("queue", None, "queue=None is not a name"),
    ("priority", 32768, "priority=32768 is not a whole number from -32768 to 32767"),
    ("priority", -32769, "priority=-32769 is not a whole number"),
    ("priority", 1.0, r"priority=1\.0 is not a whole number"),
    ("priority", True, "priority=True is not a whole number"),
    ("priority", "high", "priority='high' is not a whole number"),
    ("max_attempts", 0, "max_attempts=0 is not a whole number from 1 to 32767"),
    ("max_attempts", 32768, "max_attempts=32768 is not a whole number"),
    ("max_attempts", None, "max_attempts=None is not a whole number"),
    ("timeout", 0, "timeout=0 leaves no time to run; leave it out for no timeout"),
    ("timeout", timedelta(), "timeout=0 leaves no time to run"),
    ("timeout", -1, "timeout=-1 is negative"),
    ("timeout", float("nan"), "timeout=nan is no length of time"),
    ("timeout", "5s", "timeout='5s' is not a duration; pass a timedelta or a number of seconds"),
    ("backoff", "soon", "backoff='soon' is no backoff; use Exponential"),
    ("backoff", None, "backoff=None is no backoff"),
    ("backoff", Exponential, "is no backoff; use Exponential"),
    ("tags", "urgent", r"tags='urgent' is one word, and tags are a list of them; write tags=\['urgent'\]"),
    ("tags", ["a", ""], "tag='' is not a name"),
    ("tags", ["a", 3], "tag=3 is not a name"),
    ("tags", ["a\0"], "is not a name"),
    ("tags", {"a"}, "is not a list of at most 100 words"),
    ("tags", None, "tags=None is not a list of at most 100 words"),
    ("tags", ["a"] * 101, "is not a list of at most 100 words"),
    ("meta", [1], r"meta=\[1\] is not a dictionary"),
    ("meta", None, "meta=None is not a dictionary"),
]
OF_A_DEFINITION: list[tuple[str, Any, str]] = [
    *OF_A_JOB,
    ("kind", "", "kind='' is not a name"),
    ("kind", "a\0", "is not a name"),
    ("kind", LONG, "is not a name"),
    ("meta", {"when": object()}, r"meta of .* cannot be stored: value\['when'\]"),
    ("meta", {"n": float("nan")}, r"meta of .* cannot be stored: value\['n'\]"),
    ("meta", {"n": "a\0b"}, "NUL character"),
    ("meta", {3: "a"}, "keys are text"),
    ("on", None, "has no option 'on'"),
    ("delay", 3, "has no option 'delay'"),
]
OF_A_CALL: list[tuple[str, Any, str]] = [
    *OF_A_JOB,
    ("kind", "a", "has no option 'kind'"),
    ("delay", -1, "delay=-1 is negative"),
    ("delay", -timedelta(seconds=1), "is negative"),
    ("delay", float("nan"), "delay=nan is no length of time"),
    ("delay", float("inf"), "delay=inf is no length of time; pass at most a century"),
    ("delay", None, "delay=None is not a duration"),
    ("delay", datetime(2030, 1, 1, tzinfo=UTC), "is not a duration"),
    ("at", datetime.fromisoformat("2030-01-01"), "has no time zone, so it names no moment"),
    ("at", 5, "at=5 is not a datetime"),
    ("jobs", "jobs", "jobs= got str, which is no Jobs"),
]


class Export(Later, kind="laws:Checked"):
    async def call(self) -> None: ...

    @job
    async def method(self) -> None: ...


@job(kind="laws:checked")
async def function() -> None: ...


def of_a_class(**given: Any) -> None:
    class Refused(Later, **given):
        pass


@pytest.mark.parametrize(("word", "value", "words"), OF_A_DEFINITION)
@pytest.mark.parametrize("write", [of_a_class, job], ids=["class", "@job"])
def test_a_definition_refuses_what_makes_no_sense(
    write: Callable[..., Any], word: str, value: Any, words: str
) -> None:
    """Where the class or the function is defined, naming the word and what to write."""
    with pytest.raises(InvalidOption, match=words):
        write(**{word: value})


@pytest.mark.parametrize(("word", "value", "words"), OF_A_CALL)
@pytest.mark.parametrize(
    "write",
    [
        lambda **given: Export().later("call", **given).send(None),
        lambda **given: Export().prepare("call", **given),
        lambda **given: Later.later_many([Export()], "call", **given).send(None),
        function.set,
        Export().method.set,
        function.set(priority=1).set,
    ],
    ids=["later", "prepare", "later_many", "set", "method.set", "set.set"],
)
def test_a_call_refuses_what_makes_no_sense(
    write: Callable[..., Any], word: str, value: Any, words: str
) -> None:
    """In the caller, before anything is sent."""
    with pytest.raises(InvalidOption, match=words):
        write(**{word: value})


def test_when_is_said_once() -> None:
    """delay and at are two ways to say it, also when they are said one after the other."""
    noon = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidOption, match="delay= and at= both say when; give one of them"):
        function.set(delay=3, at=noon)
    with pytest.raises(InvalidOption, match="delay= and at= both say when"):
        function.set(delay=3).set(at=noon)


def test_a_backoff_that_is_code_stays_where_it_is_written() -> None:
    """One call's backoff is stored with it, and code cannot be; a definition's is not stored."""
    assert isinstance(Code(), Backoff)
    job(kind="laws:code", backoff=Code())(lambda: None)
    for write in (function.set, Export().method.set, lambda **given: Export().prepare("call", **given)):
        with pytest.raises(
            InvalidOption, match="is code and cannot be stored with one job; give it to the class or to @job"
        ):
            write(backoff=Code())


def test_durations_are_timedeltas_or_seconds() -> None:
    """A timeout and a delay mean the same in both spellings."""
    for pair in (
        ({"timeout": 90}, {"timeout": timedelta(seconds=90)}),
        ({"delay": 1.5}, {"delay": timedelta(seconds=1.5)}),
    ):
        one, other = (function.set(**each).prepare().new_job(Codec()) for each in pair)
        assert one == other
