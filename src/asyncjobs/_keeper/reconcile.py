"""Compare what the database says this runner holds with what it knows of.

A claim whose reply was lost has committed jobs to a runner that lives and does not know of them: nobody would ever take them
from it. Known they are by looking twice: held in the database at both looks, unknown at both, and every claim that could
have brought them is over by the second. When the claim under way at the first look is still under way at the second though
its jobs are committed, and the runner's loop is not blocked, its reply will not come.

An incarnation that was succeeded holds nothing any more, unless the server went on with a claim whose client was gone.

A comparison reads every job that is ready, so it is made when there is a reason, and seldom without one.
"""

from __future__ import annotations

import time
from enum import Enum

from asyncjobs._keeper.post import Account, Crossing
from asyncjobs._keeper.vigilance import Vigilance
from asyncjobs._store.claims import Claim, find_claims
from asyncjobs._store.session import Session

REMEMBERED = 60.0  #: seconds; afterwards the search for orphans finds what a former incarnation left
WITH_REASON, WITHOUT = 0.05, 0.01  #: how much of the time may go into comparing
SELDOM = 15  #: times as long as with a reason
ROUND_TRIPS = 4  #: of the keeper's own that a reply is waited for at least: the network may be slow


class Verdict(Enum):
    """What a comparison found."""

    AGREED = "agreed"
    STRANGERS = "strangers"  #: jobs this runner holds, and does not know of
    UNANSWERED = "unanswered"  #: the same, brought by the claim under way


class Reconciler:
    """Comparisons, over the life of one keeper."""

    def __init__(self, vigilance: Vigilance) -> None:
        self._every = vigilance.reconcile_every
        self._unknown: frozenset[Claim] = frozenset()  #: found at the last comparison
        self._sent = 0  #: claims, by then
        self._waits_for = 0  #: the claim that was under way at the last look
        self._compared_at = time.monotonic()
        self._took = 0.0
        self._former: dict[int, float] = {}  #: and until when each is remembered

    def succeeded(self, former: int) -> None:
        """*former* was succeeded: what was seen under it is nothing any more, and it is remembered."""
        self._former[former] = time.monotonic() + REMEMBERED
        self._unknown = frozenset()

    async def compare(self, session: Session, incarnation: int, post: Crossing) -> tuple[Verdict, set[int]]:
        """At each look: when it is time, compare; the former incarnations that hold jobs all the same."""
        account = await post.account()
        if account is None or not self._is_time(account):
            return Verdict.AGREED, set()
        self._compared_at = time.monotonic()
        found = await find_claims(session, [incarnation, *self._former])
        self._took = time.monotonic() - self._compared_at
        account = await post.account()
        if account is None:  # blocked: its replies wait to be read
            self._unknown = frozenset()
            return Verdict.AGREED, set()
        return self._judge(found.pop(incarnation, frozenset()), account), set(found)

    def _is_time(self, account: Account) -> bool:
        now = time.monotonic()
        self._former = {name: until for name, until in self._former.items() if until > now}
        is_slow = account.sent > account.answered and account.sent == self._waits_for
        self._waits_for = account.sent
        pause = max(self._every, self._took * ROUND_TRIPS)
        if is_slow or self._former or self._unknown:
            pause = max(pause, self._took / WITH_REASON)
        else:
            pause = max(pause * SELDOM, self._took / WITHOUT)
        return now - self._compared_at >= pause

    def _judge(self, found: frozenset[Claim], account: Account) -> Verdict:
        before, sent_before = self._unknown, self._sent
        self._unknown = frozenset(claim for claim in found if account.held.get(claim.id) != claim.token)
        self._sent = account.sent
        if not before & self._unknown:
            return Verdict.AGREED
        return Verdict.STRANGERS if account.answered >= sent_before else Verdict.UNANSWERED
