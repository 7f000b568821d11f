"""When the next attempt of a failed job is due. Pure: the dice come in by the door."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import attrs

from asyncjobs._model.durations import Duration, seconds
from asyncjobs.errors import InvalidOption


@runtime_checkable
class Backoff(Protocol):
    """How long a job waits before it is tried again. One of your own is an object with this method."""

    def delay(self, attempt: int, dice: float) -> Duration:
        """The wait after attempt number *attempt* (1, 2, …) failed; *dice* is uniform in [0, 1)."""
        ...


def _first(value: Duration) -> timedelta:
    return timedelta(seconds=seconds(value, "first"))


def _longest(value: Duration) -> timedelta:
    return timedelta(seconds=seconds(value, "longest"))


def _wait(value: Duration) -> timedelta:
    return timedelta(seconds=seconds(value, "wait"))


def _number(lowest: float, highest: float) -> Callable[[Any, Any, Any], None]:
    def check(_: object, field: attrs.Attribute[float], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise InvalidOption(f"{field.name}={value!r} is not a number from {lowest:g} to {highest:g}")

    return check


@attrs.frozen
class Exponential:
    """*first*, then *factor* times as long after each failure, at most *longest*, give or take *jitter*.

    The jitter keeps jobs that failed together (a service was down) from coming back together.
    """

    first: timedelta = attrs.field(default=timedelta(seconds=2), converter=_first)
    longest: timedelta = attrs.field(default=timedelta(hours=1), converter=_longest)
    factor: float = attrs.field(default=2.0, validator=_number(1, 1000))
    jitter: float = attrs.field(default=0.2, validator=_number(0, 1))

    def delay(self, attempt: int, dice: float) -> timedelta:
        """The wait after *attempt*; never longer than *longest*."""
        if self.first >= self.longest or not self.first:
            wait = min(self.first, self.longest)
        elif (attempt - 1) * math.log(self.factor) >= math.log(
            self.longest / self.first
        ):  # the power may be beyond a float
            wait = self.longest
        else:
            wait = self.first * self.factor ** (attempt - 1)
        return min(wait * (1 + self.jitter * (2 * dice - 1)), self.longest)


@attrs.frozen
class Constant:
    """Always the same wait, give or take *jitter*."""

    wait: timedelta = attrs.field(default=timedelta(seconds=10), converter=_wait)
    jitter: float = attrs.field(default=0.2, validator=_number(0, 1))

    def delay(self, attempt: int, dice: float) -> timedelta:  # noqa: ARG002 -- the same for every attempt
        """The wait after any attempt."""
        return self.wait * (1 + self.jitter * (2 * dice - 1))


BackoffLike = Backoff | Duration | Callable[[int], Duration]
"""A backoff, or one in short: always the same wait, or a function of the number of the attempt that failed."""


@attrs.frozen
class Computed:
    """What a function of the attempt's number says."""

    function: Callable[[int], Duration]

    def delay(self, attempt: int, dice: float) -> Duration:  # noqa: ARG002 -- the function has its own
        """The wait after *attempt*."""
        return self.function(attempt)


def as_backoff(given: object) -> Backoff:
    """*given*, or what it is short for. Raises InvalidOption."""
    if isinstance(given, timedelta | int | float) and not isinstance(given, bool):
        return Constant(seconds(given, "backoff"), jitter=0)
    if not isinstance(given, type):
        if isinstance(given, Backoff):
            return given
        if callable(given):
            return Computed(given)
    raise InvalidOption(
        f"backoff={given!r} is no backoff; use Exponential(…), Constant(…), seconds, a function of the attempt's number, or "
        "an object with a method delay(attempt, dice)"
    )


def backoff_to_json(given: BackoffLike) -> dict[str, Any]:
    """A backoff given for one call travels with the job. Raises InvalidOption for one that is code."""
    backoff = as_backoff(given)
    if isinstance(backoff, Exponential):
        return {
            "exponential": [
                backoff.first.total_seconds(),
                backoff.longest.total_seconds(),
                backoff.factor,
                backoff.jitter,
            ]
        }
    if isinstance(backoff, Constant):
        return {"constant": [backoff.wait.total_seconds(), backoff.jitter]}
    raise InvalidOption(
        f"backoff={given!r} is code and cannot be stored with one job; "
        "give it to the class or to @job, or use Exponential or Constant here"
    )


def backoff_from_json(stored: Mapping[str, Any]) -> Backoff:
    """The inverse of `backoff_to_json`."""
    if "exponential" in stored:
        return Exponential(*stored["exponential"])
    return Constant(*stored["constant"])
