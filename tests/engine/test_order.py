"""In which order what was claimed ahead begins."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import QueueRegistry
from asyncjobs._engine.lanes import Lanes
from asyncjobs._engine.slots import EVERY_QUEUE, Pool
from asyncjobs._model.job import ClaimedJob, Lane
from asyncjobs._store.rows import claim_order

AT = datetime(2026, 1, 1, tzinfo=UTC)


def jobs_of(*places: tuple[str, int]) -> list[ClaimedJob]:
    """Jobs as a claim returns them: by priority and age."""
    known: dict[str, Any] = dict.fromkeys(ClaimedJob._fields)
    ids = itertools.count(1)
    jobs = [
        ClaimedJob(
            **{
                **known,
                "id": next(ids),
                "queue": queue,
                "kind": "k",
                "priority": priority,
                "scheduled_at": AT,
            }
        )
        for queue, priority in places
    ]
    return sorted(jobs, key=claim_order)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(-3, 3)), min_size=1, max_size=6), max_size=5
    )
)
def test_what_waits_is_in_order(batches: list[list[tuple[str, int]]]) -> None:
    """Q9: "buffered low-priority job displaced by urgent one": whatever comes when, the heavier queue is first, then the urgent."""
    queues = QueueRegistry()
    queues.register(a=1, b=2)
    pool = Pool([EVERY_QUEUE], 1)
    lanes = Lanes([pool], queues)
    lanes.see([Lane("a", "k"), Lane("b", "k")], 0.0)
    every = []
    for batch in batches:
        jobs = jobs_of(*batch)
        every += jobs
        pool.keep(lanes.in_order(jobs), 0.0, lanes.in_order)
    order = [(-queues.weight_of(job.queue), job.priority) for job in pool.prefetched]
    assert order == sorted(order)
    assert sorted(pool.prefetched, key=id) == sorted(every, key=id)


def test_queues_of_one_weight_take_turns_in_a_batch() -> None:
    """Though one has the more urgent jobs; who was served longest ago begins."""
    pool = Pool([EVERY_QUEUE], 1)
    lanes = Lanes([pool])
    lanes.see([Lane("a", "k"), Lane("b", "k")], 0.0)
    jobs = jobs_of(("a", -1), ("a", -1), ("a", -1), ("b", 5), ("b", 5))
    assert [job.queue for job in lanes.in_order(jobs)] == ["a", "b", "a", "b", "a"]
    lanes.advance(jobs_of(("a", 0)), 0.0)
    assert [job.queue for job in lanes.in_order(jobs)] == ["b", "a", "b", "a", "a"]
