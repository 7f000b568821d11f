"""An attempt at a job whose object has hooks, or around which the application has middleware.

What stands before the end is part of the attempt: `needed`, `on_start`, the job and `on_success`, all inside the middleware.
What any of them raises is the attempt's error. What is told afterwards (`on_error`, `on_end`, `on_failure`, `on_skip`) only looks
on: it may take as long as an attempt may, what it raises is logged, and what became of the job stands. Only what `on_error`
answers counts: a verb takes the place of the error, False keeps it out of the log.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import attrs

from asyncjobs._define.call import Call
from asyncjobs._engine.around import Around
from asyncjobs._engine.context import RolledBack, RunningJob
from asyncjobs._engine.telling import log_error
from asyncjobs._engine.threads import ThreadCall
from asyncjobs._engine.verdict import meant
from asyncjobs._model.durations import A_CENTURY, moment
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Outcome
from asyncjobs._model.states import FinalState
from asyncjobs._model.verbs import Finish, Verb, as_said, says_verb


class Attempted(Protocol):
    """An attempt, as those see it who are told of it."""

    job: ClaimedJob
    running: RunningJob
    around: Around
    thread: ThreadCall | None
    stopped_for: tuple[str, ...]
    interrupted: bool
    wait: float | None
    is_quiet: bool

    async def perform(self, call: Call) -> Outcome | None:
        """Call it, within its time. Raises whatever it raises."""

    async def check_needed(self, call: Call, needed: Callable[[], Any]) -> None:
        """Raises Skip when there is nothing to do."""

    async def value_of(self, call: Call) -> Any:
        """What the job returns."""

    async def ask(self, call: Call, question: Callable[[], Any]) -> Any:
        """What *question* says, asked where the job itself runs."""

    def error_in(self, raised: BaseException) -> BaseException | None:
        """The error that fails the attempt."""

    def came_to(self, error: BaseException) -> Outcome | None:
        """What becomes of the job."""

    def timeout(self) -> float | None:
        """Seconds one attempt may take."""


class Told:
    """An attempt, and who is told of it."""

    def __init__(self, attempt: Attempted, call: Call) -> None:
        self._attempt = attempt
        self._call = call

    async def perform(self) -> Outcome | None:
        """Call the job, and tell of it. Raises only what nobody may be told of."""
        with ExitStack() as stack:
            try:
                await self._enter_context(stack)
                outcome = await self._attempt.perform(
                    attrs.evolve(self._call, function=self._within, is_async=True, needed=None)
                )
            except BaseException as raised:
                return await self.hear(raised)
            return await self._told(outcome, None)

    async def hear(self, raised: BaseException) -> Outcome | None:
        """What becomes of the job whose attempt *raised*, once all were told who may be."""
        if self._is_left(raised):
            raise raised
        if self._attempt.running.handed_over:
            with suppress(RolledBack):
                await self._attempt.running.find_out()
        error = await self._heard(raised)
        return await self._told(self._attempt.came_to(error), error)

    async def _told(self, outcome: Outcome | None, error: Any) -> Outcome | None:
        await self._tell("on_end")
        running, stands = self._attempt.running, outcome
        if (
            running.completed and running.said
        ):  # by a transaction of its own: that stands, whatever it did since
            stands, error = running.outcome, running.said[-1]
        if isinstance(stands, Finished) and isinstance(error, BaseException):
            if stands.state is FinalState.FAILED:
                await self._tell_all("failure", meant(error))
            elif stands.state is FinalState.SKIPPED:
                await self._tell("on_skip", str(error))
        return outcome

    async def _enter_context(self, stack: ExitStack) -> None:
        hooks = self._call.hooks
        said = hooks.ready("run_context") if hooks is not None else None
        if said is not None:
            values = said()
            if inspect.isawaitable(values):
                values = await values
            stack.enter_context(self._attempt.around.restored(values or {}))

    def _is_left(self, raised: BaseException) -> bool:
        """Nobody may act for the job any more: it is another runner's, or closed, or still runs in its thread."""
        attempt = self._attempt
        stopped = "lost" in attempt.stopped_for or "abandoned" in attempt.stopped_for
        return stopped or self._is_closed(raised) or attempt.thread is not None

    def _is_closed(self, raised: BaseException) -> bool:
        """From outside: nothing can be awaited any more. A GeneratorExit of the job's own, or a hook's, is an error as any."""
        return isinstance(raised, GeneratorExit) and (
            self._attempt.interrupted or asyncio._get_running_loop() is None
        )

    # The attempt itself.

    async def _within(self) -> Any:
        call_next: Callable[[], Awaitable[Any]] = self._work
        for layer in reversed(self._attempt.around.middleware):
            if layer.run is not None:
                call_next = partial(layer.run, self._attempt.running, call_next)
        return await call_next()

    async def _work(self) -> Any:
        attempt, call = self._attempt, self._call
        if call.needed is not None:
            await attempt.check_needed(call, call.needed)
        await self._ask("on_start")
        try:
            value = await attempt.value_of(call)
        except Finish as early:
            value = early.result
        if attempt.running.handed_over:
            await attempt.running.find_out()
        if attempt.running.said:  # it settled itself: what it returns is not heard
            value = attempt.running.said[-1]
            value = value.result if isinstance(value, Finish) else value
        if not says_verb(value):
            await self._ask("on_success", value)
        return value

    async def _ask(self, name: str, *args: Any) -> Any:
        hooks = self._call.hooks
        question = None if hooks is None else hooks.ready(name, *args)
        return None if question is None else await self._attempt.ask(self._call, question)

    # Who is told of it.

    async def _heard(self, raised: BaseException) -> BaseException:
        """The error, or the verb the object has for it."""
        attempt = self._attempt
        error = attempt.error_in(raised)
        if error is None:
            return raised
        said = await self._tell_all("error", error)
        if says_verb(said):
            verb: BaseException = as_said(said)
            verb.__cause__ = error
            return verb
        attempt.is_quiet = said is False
        at = await self._tell("reschedule_at", now := datetime.now(UTC), attempt.job.attempt)
        if at is not None:
            try:
                attempt.wait = min(max(0.0, (moment(at, "reschedule_at") - now).total_seconds()), A_CENTURY)
            except Exception as wrong:
                self._log(wrong, "reschedule_at")
        return error

    async def _tell_all(self, event: str, error: BaseException) -> Any:
        said = await self._tell(f"on_{event}", error)
        for layer in self._attempt.around.middleware:
            tell = getattr(layer, event)
            if tell is not None:
                await self._safely(partial(tell, self._attempt.running, error), f"middleware {event}")
        return said

    async def _tell(self, name: str, *args: Any) -> Any:
        hooks = self._call.hooks
        question = None if hooks is None else hooks.ready(name, *args)
        return None if question is None else await self._safely(question, name)

    async def _safely(self, question: Callable[[], Any], name: str) -> Any:
        attempt = self._attempt
        try:
            async with asyncio.timeout(attempt.timeout()):
                return await attempt.ask(self._call, question)
        except Verb as said:
            return said
        except BaseException as error:
            if self._is_closed(error):
                raise
            if not (isinstance(error, asyncio.CancelledError) and attempt.interrupted):
                self._log(error, name)
        return None

    def _log(self, error: BaseException, name: str) -> None:
        job = self._attempt.job
        log_error(
            logging.ERROR,
            error,
            "%s of job %s (%s) raised; what became of the job stands",
            name,
            job.id,
            job.kind,
        )
