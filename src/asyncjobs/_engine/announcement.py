"""That this runner is idle, said where enqueuers look (`asyncjobs.wake`), and withdrawn when it is not.

Who is to fall asleep must not miss a job that was committed just before. So it

1. announces itself: it takes the shared lock that enqueuers probe, and a transaction id of its own;
2. claims again, at growing intervals, until every transaction is over that may have probed before (find_horizon.sql).

While jobs keep coming the announcement stands for 50 ms more, so that a trickle costs no locking; under load it is
withdrawn, and enqueuing sends no notifications at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from asyncjobs._engine.alarm import Alarm
from asyncjobs._engine.lanes import Lanes
from asyncjobs._engine.slots import EVERY_QUEUE, Pool
from asyncjobs._store.claims import announce_idle, is_past_horizon, withdraw_idle
from asyncjobs._store.session import Session

KEEP_ANNOUNCED = 0.050  #: seconds
HORIZON_FROM, HORIZON_TO = 0.002, 0.050  #: seconds between claims while older transactions are waited out


class Announcement:
    """The queues this runner is said to be idle on; true of one connection."""

    def __init__(self, pools: Sequence[Pool], lanes: Lanes, alarm: Alarm) -> None:
        self._pools = pools
        self._lanes = lanes
        self._alarm = alarm
        self.queues: set[str] = set()
        self._own_xid: int | None = None  #: to be waited out before sleeping
        self._hungry_at = 0.0  #: when the slots last had nothing to do

    @property
    def stands(self) -> bool:
        """Somebody enqueuing now wakes this runner, and nobody is left who looked before it could be seen."""
        return bool(self.queues) and self._own_xid is None

    async def is_heard(self, session: Session) -> bool:
        """Announce what is missing; True when it is safe to sleep, False: claim once more, now that enqueuers can see us."""
        self._hungry_at = time.monotonic()
        missing = self._with_free_slots() - self.queues
        if missing:
            refused, self._own_xid = await announce_idle(session, sorted(missing))
            self.queues |= missing - set(refused)
            if refused:
                await self._wait_longer()
            return False
        if self._own_xid is None:
            return True
        if await is_past_horizon(session, self._own_xid):
            self._own_xid = None
        else:
            await self._wait_longer()
        return False

    async def withdraw(self, session: Session, *, drained: bool) -> None:
        """Take back what has not been true for a while."""
        busy = self.in_vain(drained=drained)
        if not busy:
            self._hungry_at = time.monotonic()
        elif time.monotonic() - self._hungry_at > KEEP_ANNOUNCED:
            await withdraw_idle(session, sorted(busy))
            self.queues -= busy

    def in_vain(self, *, drained: bool) -> set[str]:
        """Queues this runner is said to be idle on, and is not."""
        return self.queues - self._with_free_slots() if drained else self.queues

    def slept(self) -> None:
        """The slots had nothing to do until now."""
        self._hungry_at = time.monotonic()

    def _with_free_slots(self) -> set[str]:
        paused = self._lanes.paused
        return {
            queue
            for pool in self._pools
            if pool.free > 0
            for queue in pool.queues
            if queue == EVERY_QUEUE or queue not in paused
        }

    async def _wait_longer(self) -> None:
        """Each time, until something happens."""
        await self._alarm.wait(self._alarm.longer(HORIZON_FROM, HORIZON_TO))
