"""One attempt at one job, and what it came to. No SQL, no connection: those are the completer's.

Only an attempt that is abandoned at the end of the process escapes; whatever else a job raises becomes an outcome.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
import traceback
from typing import Any

import attrs
import orjson

from asyncjobs._define import registry
from asyncjobs._define.call import Call
from asyncjobs._define.codec import Codec
from asyncjobs._engine.context import RunningJob
from asyncjobs._engine.supply import Provide, supplied
from asyncjobs._engine.threads import run_in_thread
from asyncjobs._model.backoff import Backoff, Exponential, backoff_from_json
from asyncjobs._model.durations import seconds
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.options import DEFAULTS
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._model.verbs import Cancel, Snooze
from asyncjobs.errors import InvalidInput

logger = logging.getLogger("asyncjobs")

MOST_TRACEBACK = 8_000  #: characters of a traceback kept with the job: its end, where the error is


@attrs.define(eq=False)
class Attempt:
    """An attempt under way: what may be done to it from outside is to stop it, for a reason."""

    job: ClaimedJob
    running: RunningJob
    codec: Codec
    provide: Provide
    task: asyncio.Task[None] | None = None
    stopped_for: str | None = None  #: 'cancel', 'timeout', 'shutdown', 'lost' or 'abandoned'
    in_thread: bool = False
    started: float = 0.0  #: on the performance counter

    def stop(self, reason: str) -> None:
        """Cancel the attempt, once, for the first reason given. A sync job cannot be stopped, only left."""
        if self.stopped_for is None:
            self.stopped_for = reason
            if self.task is not None and not self.in_thread:
                self.task.cancel()

    def abandon(self) -> None:
        """Wait for it no longer: the process is about to end, and what it comes to is not told."""
        self.stopped_for = "abandoned"
        if self.task is not None:
            self.task.cancel()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    async def run(self) -> Outcome | None:
        """Run the job once. None when it completed itself in a transaction of its own."""
        options: Any = DEFAULTS
        try:
            definition = registry.find(self.job.kind)
            options = definition.options_of(self.job.method)
            wanted = definition.dependencies()
            if wanted:
                async with supplied(self.provide, wanted) as supply:
                    call = definition.bind(self.job.method, self.job.args, self.codec, supply)
                    return await self._call(call, options)
            return await self._call(definition.bind(self.job.method, self.job.args, self.codec, {}), options)
        except BaseException as error:
            if self.running.completed:  # it is committed: nothing can make it undone
                if not isinstance(error, asyncio.CancelledError):
                    logger.exception("job %s (%s) raised after it was completed", self.job.id, self.job.kind)
                return None
            return self._came_to_nothing(error, options)

    async def _call(self, call: Call, options: Any) -> Outcome | None:
        self.running.result_type = call.result_type
        timeout = self._timeout(options) if self.job.options or options["timeout"] is not None else None
        timer = None
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, self._time_out, timeout)
        try:
            if call.needed is not None and not await _maybe_await(call.needed()):
                return self._finished(FinalState.SKIPPED)
            if call.is_async:
                value = await call.function()
            else:
                self.in_thread = True
                value = await _maybe_await(await run_in_thread(call.function, call.what, self._left_thread))
        finally:
            if timer is not None:
                timer.cancel()
        if self.running.completed:
            return None
        if self.running.handed_over:
            # Right when that transaction was rolled back after all. When it was committed, the fence refuses this.
            return self._failed(_RolledBack("the transaction that completed the job was rolled back"), options, loud=False)
        if isinstance(value, Snooze | Cancel):
            raise value
        return self._completed(call, value)

    def _left_thread(self) -> None:
        """Called in the thread, at its end."""
        self.in_thread = False

    def _completed(self, call: Call, value: Any) -> Finished:
        try:
            if value is None and call.result_type in (None, type(None), Any):
                return self._finished(FinalState.COMPLETED)
            text = self.codec.encode_value(value, call.result_type, what=f"the result of {call.what}")
        except InvalidInput as error:
            logger.warning("job %s (%s) completed, but its result is not kept: %s", self.job.id, self.job.kind, error)
            return attrs.evolve(self._finished(FinalState.COMPLETED), result_error=storable_text(str(error)))
        return attrs.evolve(self._finished(FinalState.COMPLETED), result=text)

    def _finished(self, state: FinalState) -> Finished:
        return Finished(self.job, state, self.elapsed)

    def _came_to_nothing(self, error: BaseException, options: Any) -> Outcome | None:
        job = self.job
        if isinstance(error, Snooze):
            return Returned(job, LiveState.SCHEDULED, delay=error.delay, unburnt=True)
        if isinstance(error, Cancel):
            return attrs.evolve(self._finished(FinalState.CANCELLED), error=error_json(job, error, None))
        if self.stopped_for in ("lost", "abandoned"):
            return None
        if isinstance(error, asyncio.CancelledError):
            if self.stopped_for == "shutdown":
                return Returned(job, LiveState.READY, unburnt=True)
            if self.stopped_for == "cancel":
                return self._finished(FinalState.CANCELLED)
            if self.stopped_for == "timeout":
                error = TimeoutError(f"the attempt took longer than its timeout of {self._timeout(options):g} s")
            else:
                error = _Stray("the job raised CancelledError itself, or cancelled its own task").with_traceback(
                    error.__traceback__
                )
        return self._failed(error, options)

    def _failed(self, error: BaseException, options: Any, *, loud: bool = True) -> Outcome:
        job = self.job
        last = job.attempt >= job.max_attempts
        logger.log(
            logging.ERROR if loud else logging.DEBUG,
            "job %s (%s) failed at attempt %s of %s%s",
            job.id,
            job.kind,
            job.attempt,
            job.max_attempts,
            ", its last" if last else "",
            exc_info=error,
            extra={"job_id": job.id, "kind": job.kind, "attempt": job.attempt},
        )
        text = error_json(job, error, traceback.format_exception(error))
        if last:
            return attrs.evolve(self._finished(FinalState.FAILED), error=text)
        delay = self._backoff(options).delay(job.attempt, random.random())
        return Returned(job, LiveState.RETRYABLE, delay=max(0.0, delay.total_seconds()), error=text)

    def _time_out(self, timeout: float) -> None:
        if self.in_thread:
            logger.warning(
                "job %s (%s) runs in a thread and is over its timeout of %g s; a thread cannot be stopped",
                self.job.id,
                self.job.kind,
                timeout,
            )
        self.stop("timeout")

    def _timeout(self, options: Any) -> float | None:
        own = self._own_options
        given = own["timeout"] if "timeout" in own else options["timeout"]
        return None if given is None else seconds(given, "timeout")

    def _backoff(self, options: Any) -> Backoff:
        own = self._own_options
        backoff: Backoff = backoff_from_json(own["backoff"]) if "backoff" in own else options["backoff"]
        return backoff if isinstance(backoff, Backoff) else Exponential()

    @property
    def _own_options(self) -> dict[str, Any]:
        return orjson.loads(self.job.options) if self.job.options else {}


class _RolledBack(Exception):  # noqa: N818
    """`complete(on=…)` was undone by its transaction's owner."""


class _Stray(Exception):  # noqa: N818
    """A cancellation nobody of ours asked for."""


async def _maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def error_json(job: ClaimedJob, error: BaseException, trace: list[str] | None) -> str:
    """What is remembered of a failed attempt, as JSON Postgres can store."""
    remembered: dict[str, Any] = {
        "attempt": job.attempt,
        "error": storable_text(f"{type(error).__name__}: {error}"[:2_000]),
    }
    if trace is not None:
        remembered["traceback"] = storable_text("".join(trace)[-MOST_TRACEBACK:])
    return orjson.dumps(remembered).decode()


def storable_text(text: str) -> str:
    """*text* without what Postgres refuses: NUL and lone surrogates, written out instead."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
