"""Limits of a queue, and rates of jobs by their keys, over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from asyncjobs._model.durations import A_CENTURY, Duration, seconds
from asyncjobs._model.keys import key_names
from asyncjobs.errors import InvalidOption

MOST = 10_000


def count_of(value: object, name: str) -> int:
    """A number of jobs. Raises InvalidOption."""
    if type(value) is not int or not 1 <= value <= MOST:
        raise InvalidOption(f"{name}={value!r} is not a number of jobs; use 1 to {MOST}")
    return value


MOST_TOKENS = 1_000_000_000

Window = Literal["sliding", "fixed"]

WINDOWS: dict[Window | None, int] = {None: 0, "sliding": 1, "fixed": 2}
"""The kinds of rates, as they are stored."""

SHORTEST_WINDOW = 0.001  #: seconds
SHORTEST_BUCKET = 1e-9


def tokens_of(value: object, name: str) -> int:
    """A number of tokens. Raises InvalidOption."""
    if type(value) is not int or not 1 <= value <= MOST_TOKENS:
        raise InvalidOption(f"{name}={value!r:.60} is not a number of tokens; use 1 to {MOST_TOKENS}")
    return value


def _names_something(by: object) -> bool:
    names = (by,) if isinstance(by, str) else by
    return by is True or (
        isinstance(names, Sequence) and bool(names) and all(isinstance(each, str) and each for each in names)
    )


@attrs.frozen(init=False)
class Rate:
    """At most *count* jobs begin *per* second, or any other time, on average; at most *burst* of them at once (*count*).

    A bucket of *burst* tokens: a job takes one when it begins, and they come back evenly. So `Rate(100, per=60, burst=10)` is
    `Rate(10, per=6)`, and that is what `jobs.limits()` says of it. With *window* it is "sliding", and no
    more than *count* begin in any time of that length, or "fixed", and no more begin in each, the first of which began with 1970 UTC.

    As the `rate=` of jobs: each value of *by* (inputs, or attributes, properties or methods of the object) has a rate of its own, inside
    the kind, or across all kinds that name the same *namespace*; and a job takes as many tokens as *weight* says, a number or the
    name of an input or attribute that is one.
    """

    count: int
    per: float
    burst: int
    window: Window | None
    by: tuple[str, ...]
    weight: int | str
    namespace: str | None

    def __init__(
        self,
        count: int,
        per: Duration = 1.0,
        *,
        burst: int | None = None,
        window: Window | None = None,
        by: str | Sequence[str] | None = None,
        weight: int | str = 1,
        namespace: str | None = None,
    ) -> None:
        time = seconds(per, "per")
        if time == 0:
            raise InvalidOption(
                "per=0 is no time for a rate; say in how many seconds, as in Rate(10, per=60)"
            )
        count = tokens_of(count, "count")
        if window not in list(WINDOWS):
            raise InvalidOption(
                f"window={window!r:.60} of a Rate is no window; say 'sliding' or 'fixed', or leave it out for a bucket"
            )
        if window is not None and burst is not None:
            raise InvalidOption(
                f"burst={burst!r:.60} is of a bucket, and in a window all {count} may begin at once; leave out one of them"
            )
        if window is not None and time < SHORTEST_WINDOW:
            raise InvalidOption(
                f"per={per!r} is too short for a window; use a thousandth of a second or more"
            )
        if by is not None and not _names_something(by):
            raise InvalidOption(
                f"by={by!r:.60} names nothing; name inputs or attributes, as in by='tenant' or by=('tenant', 'region'), or leave it out "
                "for one rate of all jobs"
            )
        if isinstance(by, bool) and by:
            raise InvalidOption(
                "by=True would give each job a rate of its own; name what those have in common that share one, as in by='tenant'"
            )
        if not (namespace is None or isinstance(namespace, str)):
            raise InvalidOption(f"namespace={namespace!r:.60} of a Rate is not text")
        burst = count if burst is None else tokens_of(burst, "burst")
        self.__attrs_init__(
            count,
            time,
            burst,
            window,
            () if by is None else key_names(by, "by"),
            weight if isinstance(weight, str) and weight else tokens_of(weight, "weight"),
            namespace,
        )
        if not SHORTEST_BUCKET <= self.length <= A_CENTURY:
            raise InvalidOption(
                f"Rate({count}, per={per!r}, burst={burst}) is a bucket that fills in {self.length:g} seconds; take from a billionth "
                "of one to a century"
            )
        if isinstance(weight, int) and weight > self.capacity:
            raise InvalidOption(
                f"weight={weight} of a Rate is more than the {self.capacity} tokens it ever holds, so no job could begin"
            )

    @property
    def every(self) -> float:
        """Seconds from one token to the next, on average."""
        return self.per / self.count

    @property
    def capacity(self) -> int:
        """The most tokens there are."""
        return self.burst if self.window is None else self.count

    @property
    def length(self) -> float:
        """Seconds: of a bucket, until an empty one is full; of a window, its length."""
        return self.every * self.burst if self.window is None else self.per

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs and attributes it asks a job for."""
        return (*self.by, self.weight) if isinstance(self.weight, str) else self.by


RateLike = Rate | None
"""A Rate; None for none."""


def rate_of(value: object) -> Rate | None:
    """The rate meant by *value* of `rate=` of a job. Raises InvalidOption."""
    if value is None or value is False:
        return None
    if isinstance(value, Rate):
        return value
    raise InvalidOption(
        f"rate={value!r:.60} is no rate; write Rate(100, per=60, by='tenant') for a hundred a minute of each tenant"
    )


def stored_rate(every: float, burst: int, window: Window | None) -> Rate:
    """The rate of a queue, of which no more is stored: as it was said, unless a burst of its own was said, too."""
    per = every * burst
    plain = float(f"{per:.12g}")  # 60, where a hundredth of 60 times 100 is 60.00000000000001
    return Rate(burst, per=min(plain if plain / burst == every else per, A_CENTURY), window=window)


def checked_limits(concurrency: object, rate: object) -> tuple[int | None, Rate | None]:
    """What `jobs.limit` was given. Raises InvalidOption."""
    if not (rate is None or isinstance(rate, Rate)):
        raise InvalidOption(f"rate={rate!r:.60} is no rate; write Rate(10, per=60) for ten a minute")
    if rate is not None and rate != Rate(
        rate.count, rate.per, burst=None if rate.window else rate.burst, window=rate.window
    ):
        raise InvalidOption(
            "a queue's rate counts its jobs, all of them and each as one; by=, weight= and namespace= are of the rate of a job: say "
            "rate=Rate(…) on the class, in @job or for one call"
        )
    return None if concurrency is None else count_of(concurrency, "concurrency"), rate


@attrs.frozen
class QueueLimit:
    """What limits a queue. None: nothing."""

    concurrency: int | None  #: so many of its jobs run at a time
    rate: Rate | None
    running: int  #: places taken of *concurrency*
