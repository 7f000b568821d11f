"""Unique in the queue."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from asyncjobs import DuplicateJob, Jobs, JobState, Later, Unique, job
from asyncjobs.errors import InvalidDefinition, InvalidOption
from tests.connections import KINDS
from tests.engine.running import running, watching


@attrs.frozen
class Index(Later, unique="user_id"):
    account: str
    name: str = ""

    @property
    def user_id(self) -> str:
        return self.account.lower()

    async def call(self) -> str:
        return self.name

    async def sweep(self) -> None: ...


@job(kind="unique.send", unique=True)
async def send(user: int, locale: str = "en") -> int:
    return user


async def test_first(dsn: str) -> None:
    async with Jobs(dsn) as jobs:
        first = await Index("ACME", "a").later("call")
        second = await Index("acme", "b").later("call")
        assert (first.created, second.created) == (True, False)
        assert first.id == second.id
        third = await Index("acme", "b").later("sweep")
        assert third.created
        many = await Index.later_many([Index("x"), Index("acme"), Index("X"), Index("y")], "call")
        assert [each.created for each in many] == [True, False, False, True]
        assert many[2].id == many[0].id and many[1].id == first.id
        assert (await jobs.get_job(first.id)).args == {"account": "ACME", "name": "a"}
        replaced = await Index("acme", "c").later("call", unique=Unique("user_id", on_conflict="replace"))
        assert replaced.id == first.id
        assert (await jobs.get_job(first.id)).args == {"account": "acme", "name": "c"}
        moved = await Index("acme", "d").later("call", delay=100, unique=Unique("user_id", on_conflict="reschedule"))
        assert moved.id == first.id
        assert (await jobs.get_job(first.id)).state is JobState.SCHEDULED
        moved = await Index("acme", "d").later("call", unique=Unique("user_id", on_conflict=("replace", "reschedule")))
        assert (await jobs.get_job(first.id)).state is JobState.AVAILABLE
        with pytest.raises(DuplicateJob):
            await Index("acme").later("call", unique=Unique("user_id", on_conflict="reject"))
        w = [await send.set(unique=Unique(window=100)).later(1, locale="en"), await send.later(1)]
        assert [each.created for each in w] == [True, False]
