"""Compare what the database says this runner holds with what it knows of.

A claim whose reply was lost has committed jobs to a runner that lives and does not know of them: nobody would ever take them
from it. Known they are by looking twice: held in the database at both looks, unknown at both, and every claim that could
have brought them is over by the second. When the claim under way at the first look is still under way at the second though
its jobs are committed, and the runner's loop is not blocked, its reply will not come.

An incarnation that was succeeded holds nothing any more, unless the server went on with a claim whose client was gone.
"""

from __future__ import annotations

import time
from enum import Enum

from asyncjobs._keeper.post import Account, Crossing
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.claims import Claim, find_claims
from asyncjobs._store.session import Session

REMEMBERED = 60.0  #: seconds; afterwards the search for orphans finds what a former incarnation left
AT_MOST = 0.02  #: of the time may go into comparing


class Verdict(Enum):
    """What a comparison found."""

    AGREED = "agreed"
    STRANGERS = "strangers"  #: jobs this runner holds, and does not know of
    UNANSWERED = "unanswered"  #: the same, brought by the claim under way


class Reconciler:
    """Comparisons, over the life of one incarnation."""

    def __init__(self, vigilance: Vigilance) -> None:
        self._every = vigilance.reconcile_every
        self._unknown: frozenset[Claim] = frozenset()
        self._sent = 0
        self._due_at = time.monotonic() + self._every
        self._former: dict[int, float] = {}  #: and until when each is remembered

    def succeeded(self, former: int) -> None:
        """*former* was succeeded: the keeper begins anew, and remembers it."""
        self._former[former] = time.monotonic() + REMEMBERED
        self._unknown = frozenset()

    async def compare(self, session: Session, incarnation: int, post: Crossing) -> tuple[Verdict, set[int]]:
        """When it is time, compare; the former incarnations that hold jobs all the same."""
        now = time.monotonic()
        if now < self._due_at:
            return Verdict.AGREED, set()
        self._former = {name: until for name, until in self._former.items() if until > now}
        found = await find_claims(session, [incarnation, *self._former])
        took = time.monotonic() - now
        self._due_at = now + max(self._every, took / AT_MOST)
        account = await post.account()
        if account is None:  # blocked: its replies wait to be read
            self._unknown = frozenset()
            return Verdict.AGREED, set()
        left_behind = {runner for runner in found if runner != incarnation}
        return self._judge(found.get(incarnation, frozenset()), account), left_behind

    def _judge(self, found: frozenset[Claim], account: Account) -> Verdict:
        before, sent_before = self._unknown, self._sent
        self._unknown = frozenset(claim for claim in found if account.held.get(claim.id) != claim.token)
        self._sent = account.sent
        if not before & self._unknown:
            return Verdict.AGREED
        return Verdict.STRANGERS if account.answered >= sent_before else Verdict.UNANSWERED
