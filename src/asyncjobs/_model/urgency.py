"""Which priorities a slot takes. Lower is more urgent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asyncjobs._model.options import check_smallint
from asyncjobs.errors import InvalidOption

MOST_URGENT, LEAST_URGENT = -32768, 32767
ANY = "any"

Slots = int | str | Sequence[int | None]
"""A number of slots; or what each takes, as `"10,30,50,any,any,any"` or `[10, 30, 50, None, None, None]`: the first has no
jobs but those of priority 10 and below, the last three have any.
"""


class Urgency(NamedTuple):
    """The priorities from *first* to *last*."""

    first: int = MOST_URGENT
    last: int = LEAST_URGENT


EVERY_PRIORITY = Urgency()


def urgency(min_priority: int | None, max_priority: int | None) -> Urgency:
    """The range a runner takes. Raises InvalidOption."""
    first = MOST_URGENT if min_priority is None else min_priority
    last = LEAST_URGENT if max_priority is None else max_priority
    check_smallint(first, "min_priority", MOST_URGENT)
    check_smallint(last, "max_priority", MOST_URGENT)
    if first > last:
        raise InvalidOption(
            f"min_priority={first} is above max_priority={last}: no job is between; lower numbers are more urgent"
        )
    return Urgency(first, last)


def thresholds(slots: str | Sequence[int | None]) -> dict[int, int]:
    """How many slots there are that take priorities up to each threshold, the lowest first. Raises InvalidOption."""
    if isinstance(slots, str):
        words: Sequence[object] = [_threshold(word.strip(), slots) for word in slots.split(",")]
    elif isinstance(slots, Sequence):
        words = slots
    else:
        raise InvalidOption(f"slots={slots!r} is neither a number of slots nor the threshold of each")
    if not words:
        raise InvalidOption(f"slots={slots!r} has no slots; write slots='10,30,any'")
    lasts = [LEAST_URGENT if word is None else word for word in words]
    counts: dict[int, int] = {}
    for last in lasts:
        counts[check_smallint(last, "a threshold of slots=", MOST_URGENT)] = 0
    for last in sorted(counts):
        counts[last] = lasts.count(last)
    return dict(sorted(counts.items()))


def _threshold(word: str, slots: str) -> int | None:
    if word == ANY:
        return None
    try:
        return int(word)
    except ValueError:
        raise InvalidOption(
            f"slots={slots!r} is neither a number of slots nor thresholds, as in '10,30,50,any,any,any'"
        ) from None
