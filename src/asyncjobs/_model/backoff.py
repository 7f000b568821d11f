"""When the next attempt of a failed job is due. Pure: the dice come in by the door."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import attrs

from asyncjobs._model.durations import Duration, seconds
from asyncjobs.errors import InvalidOption


@runtime_checkable
class Backoff(Protocol):
    """The wait after attempt number *attempt* (1, 2, …) failed; *dice* is uniform in [0, 1)."""

    def delay(self, attempt: int, dice: float) -> timedelta: ...


def _to_timedelta(value: Duration) -> timedelta:
    return timedelta(seconds=seconds(value, "backoff"))


def _jitter(_: object, __: object, value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidOption(f"jitter={value!r} is not a share of the wait; pass a number from 0 to 1")


@attrs.frozen
class Exponential:
    """*first*, then *factor* times as long after each failure, at most *longest*, give or take *jitter*.

    The jitter keeps jobs that failed together (a service was down) from coming back together.
    """

    first: timedelta = attrs.field(default=timedelta(seconds=2), converter=_to_timedelta)
    longest: timedelta = attrs.field(default=timedelta(hours=1), converter=_to_timedelta)
    factor: float = 2.0
    jitter: float = attrs.field(default=0.2, validator=_jitter)

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.factor <= 1000:
            raise InvalidOption(f"factor={self.factor!r} does not back off; pass a number from 1 to 1000")

    def delay(self, attempt: int, dice: float) -> timedelta:
        """The wait after *attempt*; never longer than *longest*."""
        if not self.first:
            return self.first
        ceiling = self.longest / self.first
        doublings = min(attempt - 1, 64)  # far beyond any ceiling, and short of a float's end
        grown = min(min(self.factor, ceiling + 1) ** doublings, ceiling) if ceiling < 1e15 else self.factor**doublings
        wait = self.first * min(grown, ceiling) * (1 + self.jitter * (2 * dice - 1))
        return min(wait, self.longest)


@attrs.frozen
class Constant:
    """Always the same wait, give or take *jitter*."""

    wait: timedelta = attrs.field(default=timedelta(seconds=10), converter=_to_timedelta)
    jitter: float = attrs.field(default=0.2, validator=_jitter)

    def delay(self, attempt: int, dice: float) -> timedelta:  # noqa: ARG002 -- the same for every attempt
        """The wait after any attempt."""
        return self.wait * (1 + self.jitter * (2 * dice - 1))


def backoff_to_json(backoff: Backoff) -> dict[str, Any]:
    """A backoff given for one call travels with the job. Raises InvalidOption for one that is code."""
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
        f"backoff={backoff!r} is code and cannot be stored with one job; "
        "give it to the class or to @job, or use Exponential or Constant here"
    )


def backoff_from_json(stored: Mapping[str, Any]) -> Backoff:
    """The inverse of `backoff_to_json`."""
    if "exponential" in stored:
        return Exponential(*stored["exponential"])
    return Constant(*stored["constant"])
