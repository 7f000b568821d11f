"""Looks at the jobs that many callers await: one connection for all of them, and one question at a time.

Who comes while a question is under way is in the next one. Each alone would need a connection of the application's pool for
each look, and a pool that opens and closes what is beyond its size is busy with nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping

import attrs

from asyncjobs._model.job import Job
from asyncjobs.errors import DatabaseUnavailable

AT_MOST = 500  #: jobs in one question


#: What of these ids, of which some are to be marked? The jobs there are, by id, and whose end will be told.
Ask = Callable[[Collection[int], Collection[int]], Awaitable[tuple[Mapping[int, Job], Collection[int]]]]


@attrs.define(eq=False)
class _Question:
    ids: set[int] = attrs.field(factory=set)
    to_mark: set[int] = attrs.field(factory=set)
    answered: asyncio.Event = attrs.field(factory=asyncio.Event)
    jobs: Mapping[int, Job] = attrs.field(factory=dict)
    marked: Collection[int] = ()
    error: Exception | None = None


class Looking:
    """Looks at jobs for everybody who awaits one."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._questions: deque[_Question] = deque()  #: that have not been asked
        self._asking: asyncio.Task[None] | None = None

    async def look(self, job_id: int, *, mark: bool) -> tuple[Job | None, bool]:
        """Where the job stands, at a moment after this was called, and whether it is marked. Raises what the question raised."""
        question = self._question_with_room()
        question.ids.add(job_id)
        if mark:
            question.to_mark.add(job_id)
        if self._asking is None:
            # Not by whoever came first, who may be cancelled.
            self._asking = asyncio.create_task(self._ask_all(), name="asyncjobs looks")
        await question.answered.wait()
        if question.error is not None:
            raise question.error
        return question.jobs.get(job_id), job_id in question.marked

    def _question_with_room(self) -> _Question:
        if not self._questions or len(self._questions[-1].ids) >= AT_MOST:
            self._questions.append(_Question())
        return self._questions[-1]

    async def _ask_all(self) -> None:
        try:
            while self._questions:
                question = self._questions.popleft()
                try:
                    question.jobs, question.marked = await self._ask(question.ids, question.to_mark)
                except Exception as error:
                    question.error = error
                except asyncio.CancelledError:  # the loop is ending
                    self._questions.appendleft(question)
                    raise
                question.answered.set()
        finally:
            self._asking = None
            for question in self._questions:
                question.error = DatabaseUnavailable("the loop ended before Postgres had answered")
                question.answered.set()
            self._questions.clear()
