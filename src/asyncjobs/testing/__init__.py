"""For the tests of an application that has jobs: on a real Postgres, in a transaction that is rolled back.

pytest finds the fixtures by itself; what is here needs no pytest.
"""

from __future__ import annotations

from asyncjobs.testing.clock import Clock, frozen_clock
from asyncjobs.testing.draining import NotDrained, drain
from asyncjobs.testing.enqueued import (
    all_enqueued,
    all_enqueued_sync,
    assert_enqueued,
    assert_enqueued_sync,
    refute_enqueued,
    refute_enqueued_sync,
)
from asyncjobs.testing.inline import inline
from asyncjobs.testing.stage import inside

__all__ = [
    "Clock",
    "NotDrained",
    "all_enqueued",
    "all_enqueued_sync",
    "assert_enqueued",
    "assert_enqueued_sync",
    "drain",
    "frozen_clock",
    "inline",
    "inside",
    "refute_enqueued",
    "refute_enqueued_sync",
]
