"""A job that may be what kills runners runs alone, so that the next death leaves no doubt.

After a crash every job the dead runner had begun is a *suspect*. One suspect at a time begins in the whole fleet
(`claim_suspect.sql` sees to that), and it begins where nothing else runs:

* a runner that holds no job takes it at once, and takes no other until what came of it is written;
* where all are busy, one at a time *closes*: it gives back what has not begun, and takes nothing more, until what it runs
  has ended. If that lasts too long it opens again, and the next to try may close for twice as long, up to a minute.

So that the others' jobs go on, a runner that has been closed stays open for as long (after a try in vain three times as
long) while there are other jobs; and a suspect that has run alone for half a minute lets others begin beside it: if its runner
dies then, only the suspect is blamed. But the crash that would fail a job must be its own beyond doubt: for its last chance
it is alone to the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs

from asyncjobs._engine.slots import Pool
from asyncjobs._model.job import ClaimedJob
from asyncjobs._store.claims import Caution, Suspect

LONGEST = 60.0  #: seconds a runner is closed in vain
WAIT_FOR_THE_QUIET = 1.0  #: seconds a busy runner leaves a suspect to those with nothing to do
SEEK_EVERY = 1.0
IN_A_ROW = 1.0  #: seconds for which a closed runner takes one suspect after another, though other jobs wait


@attrs.define(eq=False)
class Solitude:
    """Whether this runner is closed to other jobs, and until when. Times are of the monotonic clock."""

    pools: Sequence[Pool]
    is_empty: Callable[[], bool]  #: this runner answers for no job at all
    caution: Caution
    waits: bool = False  #: a suspect waits that could run here
    suspect: ClaimedJob | None = None  #: it runs here, or what came of it is being written
    is_closed: bool = False
    _closed_at: float = 0.0
    _closes_until: float = 0.0  #: becoming empty lasts no longer
    _shares_at: float = math.inf  #: others may begin beside the suspect
    _open_until: float = 0.0
    _next_at: float = 0.0  #: nothing is to be asked before
    _seen_at: float | None = None  #: since when there are suspects

    def saw(self, now: float, *, suspects: bool) -> None:
        """A look around saw suspects, or none."""
        if not suspects:
            self.waits, self._seen_at = False, None
        elif self._seen_at is None:
            self._seen_at = now
            self._next_at = 0.0

    def concerns(self, now: float) -> bool:
        """There is something to decide, or this runner is closed."""
        return self.is_closed or self.suspect is not None or self.is_due(now)

    def is_due(self, now: float) -> bool:
        """A suspect may run here, if none runs elsewhere."""
        return self._seen_at is not None and now >= self._next_at and now >= self._open_until

    def later(self, now: float) -> None:
        """No suspect may begin here now."""
        self._next_at = now + SEEK_EVERY
        if not self.waits and self._seen_at is not None:
            self._seen_at = now

    def nothing_else(self) -> None:
        """No other job waits that this runner could run."""
        self._open_until = 0.0

    def is_patient(self, now: float) -> bool:
        """Somebody with nothing to do may still take it."""
        return self._seen_at is None or now - self._seen_at < WAIT_FOR_THE_QUIET

    def is_in_vain(self, now: float) -> bool:
        """It has been closed for long enough, and something still runs."""
        return now >= self._closes_until

    def close(self, now: float, seconds: float = math.inf) -> list[ClaimedJob]:
        """Take no other jobs; what was claimed and will not begin."""
        if not self.is_closed:
            self._closed_at = now
        self.is_closed, self._closes_until = True, now + seconds
        for pool in self.pools:
            pool.is_closed = True
        return [job for pool in self.pools for job in pool.give_up()]

    def open(self, now: float, *, stay: float) -> None:
        """Take other jobs again, at least for *stay* times as long as none were taken."""
        self._open_until = now + stay * (now - self._closed_at)
        self.is_closed = False
        for pool in self.pools:
            pool.is_closed = False

    def begins(self, now: float, suspect: Suspect) -> None:
        """It begins, alone."""
        self.suspect = suspect.job
        is_last_chance = suspect.crashes + 1 >= self.caution.max_crashes
        self._shares_at = math.inf if is_last_chance else now + self.caution.alone

    def may_share(self, now: float) -> bool:
        """The suspect has been alone for long enough."""
        return now >= self._shares_at

    def ended(self) -> None:
        """What came of the suspect is written."""
        self.suspect = None

    def has_been_closed_for_long(self, now: float) -> bool:
        """It is other jobs' turn."""
        return now - self._closed_at >= IN_A_ROW

    def wait(self, now: float) -> float:
        """Seconds until there is something to decide again, if nothing happens."""
        if self.suspect is not None:
            return max(0.0, self._shares_at - now) if self.is_closed else math.inf
        if self.is_closed:
            return max(0.0, min(self._closes_until - now, SEEK_EVERY))
        if self._seen_at is None:
            return math.inf
        return max(0.0, max(self._next_at, self._open_until) - now)
