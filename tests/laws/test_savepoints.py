"""A job exists if and only if the transaction that enqueued it committed, and every savepoint around it was released."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress

import asyncpg
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncjobs import Jobs, job
from tests.connections import KINDS, Theirs


@job(kind="test_savepoints:count")
async def count(number: int) -> None: ...


class RolledBack(Exception):
    """The owner changes their mind."""


@attrs.frozen
class Enqueue:
    """Enqueue a job, and, beside it, write a row as the owner does: before the job, after it, or not at all."""

    row: str


@attrs.frozen
class Block:
    """A transaction or a savepoint, and how it ends."""

    steps: Sequence[Enqueue | Block]
    stays: bool


enqueues = st.builds(Enqueue, st.sampled_from(["none", "before", "after"]))
savepoints: st.SearchStrategy[Block] = st.deferred(lambda: st.builds(Block, steps, st.booleans()))
steps: st.SearchStrategy[list[Enqueue | Block]] = st.lists(enqueues | savepoints, max_size=3)
programs = st.lists(st.builds(Block, steps, st.booleans()), min_size=1, max_size=3)
"""Several transactions, one after the other, on one connection."""

numbers = itertools.count(1)


@attrs.define
class Interpreter:
    """Runs a program on somebody's connection, and says what should be there afterwards."""

    theirs: Theirs
    jobs: Jobs
    ambient: bool

    async def run(self, program: Sequence[Block]) -> tuple[set[int], set[int]]:
        expected_jobs: set[int] = set()
        expected_rows: set[int] = set()
        for block in program:
            made, written = await self._block(block, nested=False)
            expected_jobs |= made
            expected_rows |= written
        return expected_jobs, expected_rows

    async def _block(self, block: Block, *, nested: bool) -> tuple[set[int], set[int]]:
        made: set[int] = set()
        written: set[int] = set()
        with suppress(RolledBack):
            async with self.theirs.nest() if nested else self.theirs.begin():
                for step in block.steps:
                    if isinstance(step, Block):
                        more_made, more_written = await self._block(step, nested=True)
                        made |= more_made
                        written |= more_written
                    else:
                        await self._enqueue(step, made, written)
                if not block.stays:
                    raise RolledBack
        return (made, written) if block.stays else (set(), set())

    async def _enqueue(self, step: Enqueue, made: set[int], written: set[int]) -> None:
        number = next(numbers)
        if step.row == "before":
            await self._row(number, written)
        if self.ambient:
            async with self.jobs.on(self.theirs.on):
                await count.later(number)
        else:
            await count.set(on=self.theirs.on, jobs=self.jobs).later(number)
        made.add(number)
        if step.row == "after":
            await self._row(number, written)

    async def _row(self, number: int, written: set[int]) -> None:
        await self.theirs.run(f"insert into orders values ({number})")
        written.add(number)


@pytest.mark.failure_mode("F81")
@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(program=programs, ambient=st.booleans())
async def test_a_job_exists_if_and_only_if_its_subtransaction_committed(
    dsn: str, kind: str, program: list[Block], ambient: bool
) -> None:
    """Whatever is begun, nested, released and rolled back, a job is stored with the owner's rows or not at all."""
    witness = await asyncpg.connect(dsn)
    try:
        await witness.execute("create table if not exists orders (number int)")
        await witness.execute("truncate orders, asyncjobs.live_jobs")
        async with Jobs(dsn) as jobs, KINDS[kind](dsn) as theirs:
            expected = await Interpreter(theirs, jobs, ambient).run(program)
        stored = await witness.fetch("select (args->>'number')::int from asyncjobs.jobs")
        rows = await witness.fetch("select number from orders")
    finally:
        await witness.close()
    assert ({row[0] for row in stored}, {row[0] for row in rows}) == expected


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_statement_of_a_connection_may_be_a_job(dsn: str, kind: str) -> None:
    """Enqueued before anything else and rolled back, the job never existed: SQLAlchemy sends its BEGIN late."""
    async with Jobs(dsn) as jobs:
        async with KINDS[kind](dsn) as theirs:
            with suppress(RolledBack):
                async with theirs.begin():
                    handle = await count.set(on=theirs.on).later(0)
                    assert await jobs.get_job(handle.id) is None  # seen by nobody yet
                    raise RolledBack
        assert await jobs.list_jobs() == []
