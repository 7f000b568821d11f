"""What the guard goes by, as an application sets it."""

from __future__ import annotations

import attrs

from asyncjobs._model.durations import Duration, seconds
from asyncjobs.errors import InvalidOption

LEAST, MOST = 0.001, 60.0  #: seconds


@attrs.frozen(init=False)
class Guard:
    """How jobs give way to the requests of the process they run in. Durations are timedeltas or seconds.

    *lag*: how late the event loop may be. At it, no job begins; from a fiftieth of it on, fewer run at a time while the loop is at
    work (late and idle, it waits for the machine).
    *blocked*: how long the loop may stand still before it is logged who holds it, with the stack, and kept for
    `jobs.blockers()`. In a process that only runs jobs nothing gives way; who blocks it is named all the same.
    """

    lag: float
    blocked: float

    def __init__(self, *, lag: Duration = 0.05, blocked: Duration = 0.5) -> None:
        """Raises InvalidOption."""
        self.__attrs_init__(_checked(lag, "lag"), _checked(blocked, "blocked"))


def _checked(value: Duration, name: str) -> float:
    amount = seconds(value, name)
    if not LEAST <= amount <= MOST:
        raise InvalidOption(
            f"Guard({name}={value!r}) is not from {LEAST:g} to {MOST:g} seconds; to have no guard, say Jobs(guard=None)"
        )
    return amount
