"""What harm is done when: drawn from the seed before anything begins."""

from __future__ import annotations

import random

import attrs

from asyncjobs._keeper.vigilance import Vigilance

WEIGHTS = {
    "kill": 14,  #: SIGKILL; another process takes the seat
    "end": 8,  #: SIGTERM; another process takes the seat
    "freeze": 10,  #: SIGSTOP, up to well beyond the lease, then SIGCONT
    "cut": 8,  #: every connection of a runner breaks
    "swallow": 8,  #: nothing of a runner gets through, and nobody is told
    "terminate": 8,  #: pg_terminate_backend of about half of all sessions
    "terminate-one": 8,
    "interrupt": 8,  #: pg_cancel_backend of about half of all sessions
    "restart-fast": 3,  #: of Postgres
    "restart-immediate": 5,  #: without a word, as in a crash
    "pause": 5,  #: a queue
    "hold": 5,  #: a transaction that stays open, and its snapshot with it
    "vacuum": 5,
}
ON_RUNNERS = frozenset({"kill", "end", "freeze", "cut", "swallow"})
ON_NETWORKS = frozenset({"cut", "swallow"})
ON_SERVER = frozenset({"restart-fast", "restart-immediate"})


@attrs.frozen
class Harm:
    """One fault."""

    at: float  #: seconds from the beginning
    kind: str
    seat: int | None  #: of the runner it is done to
    seconds: float  #: until it is over, or until what is gone is started again
    dice: int  #: for what is decided when it happens


def networked(seat: int) -> bool:
    """Whether the runner of this seat reaches Postgres by a network that can be harmed."""
    return seat % 2 == 1


def listens(seat: int) -> bool:
    """Whether the runner of this seat holds a lock; every fourth has its lease alone, as behind a pooler."""
    return seat % 4 != 3


def guarded(seat: int) -> bool:
    """Whether the runner of this seat gives way when its loop lags, as beside an application; on a busy machine it then does
    little else.
    """
    return seat % 4 == 0


def draw(
    seed: int, seconds: float, seats: int, every: float, times: Vigilance, kinds: frozenset[str] | None = None
) -> list[Harm]:
    """The faults of a run: the same for the same arguments."""
    dice = random.Random(seed)
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kinds is None or kind in kinds}
    harms = []
    at = min(3.0, every)
    while weights and at < seconds:
        kind = dice.choices(list(weights), list(weights.values()))[0]
        able = [seat for seat in range(seats) if kind not in ON_NETWORKS or networked(seat)]
        length = dice.random()
        if kind in ("freeze", "swallow"):
            lasts = 0.2 + length**2 * times.lease * 1.5
        elif kind in ON_SERVER:
            lasts = length * 3
        elif kind in ("pause", "hold"):
            lasts = 0.5 + length * 5
        else:
            lasts = length * 3
        seat = dice.choice(able) if kind in ON_RUNNERS and able else None
        number = dice.randrange(10**9)
        if kind not in ON_RUNNERS or able:
            harms.append(Harm(round(at, 2), kind, seat, round(lasts, 2), number))
        at += dice.uniform(0.3, 1.7) * every
    return harms
