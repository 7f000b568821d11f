"""Limits of a queue, over all processes."""

from __future__ import annotations

import attrs

from asyncjobs._model.durations import A_CENTURY, Duration, seconds
from asyncjobs.errors import InvalidOption

MOST = 10_000


def count_of(value: object, name: str) -> int:
    """A number of jobs. Raises InvalidOption."""
    if type(value) is not int or not 1 <= value <= MOST:
        raise InvalidOption(f"{name}={value!r} is not a number of jobs; use 1 to {MOST}")
    return value


@attrs.frozen(init=False)
class Rate:
    """At most *count* jobs begin *per* second, or any other time, on average; at most *burst* of them at once (*count*).

    A bucket of *burst* tokens: a job takes one when it begins, and they come back evenly. So `Rate(100, per=60, burst=10)` is
    `Rate(10, per=6)`, and that is what `jobs.limits()` says of it.
    """

    count: int
    per: float
    burst: int

    def __init__(self, count: int, per: Duration = 1.0, *, burst: int | None = None) -> None:
        every = seconds(per, "per")
        if every == 0:
            raise InvalidOption(
                "per=0 is no time for a rate; say in how many seconds, as in Rate(10, per=60)"
            )
        count = count_of(count, "count")
        self.__attrs_init__(count, every, count if burst is None else count_of(burst, "burst"))

    @property
    def every(self) -> float:
        """Seconds from one token to the next."""
        return self.per / self.count


def rate_of(every: float, burst: int) -> Rate:
    """The rate of a bucket, which is all that is stored: as it was said, unless a burst of its own was said, too."""
    per = every * burst
    if per > A_CENTURY:
        return Rate(1, per=every, burst=burst)
    plain = float(f"{per:.12g}")  # 60, where a hundredth of 60 times 100 is 60.00000000000001
    return Rate(burst, per=plain if plain / burst == every else per)


def checked_limits(concurrency: object, rate: object) -> tuple[int | None, Rate | None]:
    """What `jobs.limit` was given. Raises InvalidOption."""
    if not (rate is None or isinstance(rate, Rate)):
        raise InvalidOption(f"rate={rate!r:.60} is no rate; write Rate(10, per=60) for ten a minute")
    return None if concurrency is None else count_of(concurrency, "concurrency"), rate


@attrs.frozen
class QueueLimit:
    """What limits a queue. None: nothing."""

    concurrency: int | None  #: so many of its jobs run at a time
    rate: Rate | None
    running: int  #: places taken of *concurrency*
