"""Whatever a backoff is made of, it waits, and not for ever."""

from datetime import timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Backoff, Constant, Exponential, InvalidOption
from asyncjobs._model.backoff import backoff_from_json, backoff_to_json
from asyncjobs._model.durations import A_CENTURY

waits = st.timedeltas(timedelta(), timedelta(seconds=A_CENTURY)) | st.timedeltas(
    timedelta(), timedelta(hours=2)
)
shares = st.floats(0, 1)
attempts = st.integers(1, 32767) | st.integers(1, 70)
dice = st.floats(0, 1, exclude_max=True)
exponentials = st.builds(Exponential, waits, waits, st.floats(1, 1000) | st.just(2.0), shares)
steady = st.builds(Exponential, waits, waits, st.floats(1, 1000) | st.just(2.0), st.just(0))
constants = st.builds(Constant, waits, shares)

A_MICROSECOND = timedelta(microseconds=1)


@pytest.mark.failure_mode("F110")
@given(exponentials, attempts, dice)
def test_a_wait_is_never_longer_than_the_longest(backoff: Exponential, attempt: int, dice: float) -> None:
    """However many attempts, and however the dice fall, the wait is bounded, and never negative."""
    assert timedelta() <= backoff.delay(attempt, dice) <= backoff.longest


@given(steady, attempts, dice)
def test_without_jitter_a_later_wait_is_never_shorter(
    backoff: Exponential, attempt: int, dice: float
) -> None:
    """Each failure waits at least as long as the one before it."""
    assert backoff.delay(attempt, dice) <= backoff.delay(attempt + 1, dice)


@given(exponentials, attempts)
def test_the_jitter_is_its_share_of_the_wait(backoff: Exponential, attempt: int) -> None:
    """It lengthens and shortens alike, where the longest leaves room."""
    plain = Exponential(backoff.first, backoff.longest, backoff.factor, 0).delay(attempt, 0.5)
    shortest = backoff.delay(attempt, 0.0)
    assert abs(plain * (1 - backoff.jitter) - shortest) <= A_MICROSECOND
    assert abs(plain - backoff.delay(attempt, 0.5)) <= A_MICROSECOND


@given(constants, attempts, dice)
def test_a_constant_wait_stays_within_its_jitter(backoff: Constant, attempt: int, dice: float) -> None:
    """The same wait for every attempt, give or take the jitter."""
    wait = backoff.delay(attempt, dice)
    assert wait == backoff.delay(1, dice)
    assert abs(wait - backoff.wait) <= backoff.wait * backoff.jitter + A_MICROSECOND
    assert wait >= timedelta()


@given(exponentials | constants)
def test_a_backoff_of_one_call_comes_back_from_its_row(backoff: Exponential | Constant) -> None:
    """Stored with a job as JSON, it reads back equal."""
    assert backoff_from_json(orjson.loads(orjson.dumps(backoff_to_json(backoff)))) == backoff


def test_the_default_is_two_seconds_doubling_to_an_hour() -> None:
    """2 s, 4 s, 8 s … 1 h, give or take a fifth."""
    middle = [Exponential().delay(attempt, 0.5) / timedelta(seconds=1) for attempt in (1, 2, 3, 12, 100)]
    assert middle == [2, 4, 8, 3600, 3600]
    assert Exponential().delay(1, 0.0) == timedelta(seconds=1.6)


def test_durations_are_timedeltas_or_seconds() -> None:
    """Both spellings make the same backoff."""
    assert Exponential(first=5, longest=60) == Exponential(
        first=timedelta(seconds=5), longest=timedelta(minutes=1)
    )
    assert Constant(1.5) == Constant(timedelta(seconds=1.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Exponential(first=-1), "first=-1 is negative"),
        (lambda: Exponential(longest="1h"), "longest='1h' is not a duration"),  # type: ignore[arg-type]
        (lambda: Constant(wait=-1), "wait=-1 is negative"),
        (lambda: Exponential(factor=0.5), "factor=0.5 is not a number from 1 to 1000"),
        (lambda: Exponential(factor=float("nan")), "factor=nan is not a number"),
        (lambda: Exponential(factor="2"), "factor='2' is not a number"),  # type: ignore[arg-type]
        (lambda: Exponential(jitter=1.1), r"jitter=1\.1 is not a number from 0 to 1"),
        (lambda: Constant(jitter=-0.1), r"jitter=-0\.1 is not a number from 0 to 1"),
        (lambda: Constant(jitter=None), "jitter=None is not a number from 0 to 1"),  # type: ignore[arg-type]
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused(make: object, words: str) -> None:
    """Where it is written, naming the word that is wrong."""
    with pytest.raises(InvalidOption, match=words):
        make()  # type: ignore[operator]


def test_a_backoff_of_ones_own_is_an_object_with_delay() -> None:
    """Structure, not ancestry."""

    class Fibonacci:
        def delay(self, attempt: int, dice: float) -> float:
            return 1.0

    assert isinstance(Fibonacci(), Backoff)
    with pytest.raises(
        InvalidOption, match="is code and cannot be stored with one job; give it to the class or to @job"
    ):
        backoff_to_json(Fibonacci())
