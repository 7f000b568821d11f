"""TResque: helpers for an application's own tests."""

from __future__ import annotations

import attrs
import pytest

from asyncjobs import Jobs, JobState, Later, job
from asyncjobs.testing import all_enqueued, assert_enqueued, drain, inline, refute_enqueued

ran: list[str] = []


@attrs.frozen
class Reindex(Later, kind="seeds.Reindex", queue="index"):
    user_id: int
    fields: dict[str, list[str]]

    async def call(self) -> None:
        ran.append(f"index {self.user_id}")
        await tell.later(f"indexed {self.user_id}")


@job(kind="seeds.tell")
async def tell(word: str) -> str:
    ran.append(word)
    return word


@pytest.mark.seed("T14")
async def test_what_is_enqueued_is_asserted_and_run(dsn: str) -> None:
    """T14 test helpers: `have_queued`-style assertions with dict subset matching, queue size, run-all, inline blocks."""
    ran.clear()
    async with Jobs(dsn):
        await Reindex(7, {"name": ["first", "last"]}).later("call")
        await Reindex(8, {}).later("call")
        (found,) = await assert_enqueued(Reindex, args={"user_id": 7})
        assert found.args["user_id"] == 7
        await assert_enqueued(Reindex, args={"fields": {"name": ["first", "last"]}}, queue="index")
        with pytest.raises(AssertionError):
            await assert_enqueued(Reindex, args={"user_id": 9})
        with pytest.raises(AssertionError):
            await assert_enqueued(tell)
        await refute_enqueued(tell)
        with pytest.raises(AssertionError):
            await refute_enqueued(Reindex, args={"user_id": 8})

        assert len(await all_enqueued(queue="index")) == 2
        await assert_enqueued(queue="index", count=2)
        with pytest.raises(AssertionError):
            await assert_enqueued(queue="index", count=3)

        await drain()  # and what they enqueue
        assert sorted(ran) == ["index 7", "index 8", "indexed 7", "indexed 8"]
        assert await all_enqueued() == []

        with inline():
            handle = await tell.later("at once")
        assert ran[-1] == "at once"
        assert await handle.status() is JobState.COMPLETED
