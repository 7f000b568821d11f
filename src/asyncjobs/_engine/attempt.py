"""One attempt at one job, and what it came to. No SQL, no connection: those are the completer's.

Whatever a job raises becomes an outcome, except in an attempt that nobody may write for any more. The outermost coroutine
of the job's task has to make it one (`came_to`): a GeneratorExit from outside closes every coroutine below it unheard.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import orjson

from asyncjobs._define import registry
from asyncjobs._define.call import Call, is_async
from asyncjobs._define.codec import Codec
from asyncjobs._engine.context import RunningJob
from asyncjobs._engine.supply import Provide, supplied
from asyncjobs._engine.threads import ThreadCall
from asyncjobs._model.backoff import Exponential, backoff_from_json
from asyncjobs._model.durations import seconds
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.options import DEFAULTS
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._model.verbs import Cancel, Snooze
from asyncjobs.errors import InvalidInput, InvalidOption, UndecodableInput

logger = logging.getLogger("asyncjobs")

MOST_TRACEBACK = 8_000  #: characters of a traceback kept with the job: its end, where the error is
MOST_WORDS = 2_000  #: characters of what the error says
MOST_LOGGED = 100_000  #: characters of an error whose traceback is logged; it stands in there as it is


@attrs.define(eq=False)
class Attempt:
    """An attempt under way: what may be done to it from outside is to stop it, for a reason."""

    job: ClaimedJob
    running: RunningJob
    codec: Codec
    provide: Provide
    task: asyncio.Task[None] | None = None
    thread: ThreadCall | None = None  #: where a sync job runs, as long as it does
    #: 'cancel', 'timeout', 'shutdown', 'lost', 'abandoned', in the order they came
    stopped_for: tuple[str, ...] = ()
    interrupted: bool = False  #: it was cancelled for one of these; a thread never is
    is_awake: bool = (
        False  #: its task has taken its first step; cancelled before, it would end without one, unheard
    )
    options: Any = DEFAULTS
    started: float = 0.0  #: on the performance counter

    def stop(self, reason: str) -> None:
        """Cancel the attempt, once for each reason: one that outlived a timeout is cancelled again at shutdown.

        A sync job cannot be stopped, only left.
        """
        if reason not in self.stopped_for:
            self.stopped_for += (reason,)
            if self.task is not None and (self.thread is None or reason == "abandoned"):
                self.interrupted = True
                if self.is_awake:
                    self.task.cancel()

    def wake(self) -> None:
        """Its task takes its first step. Raises CancelledError when it was stopped before."""
        self.is_awake = True
        if self.interrupted:
            raise asyncio.CancelledError

    def abandon(self) -> None:
        """Wait for it no longer: the process is about to end, and what it comes to is not told."""
        self.stop("abandoned")

    def close(self) -> None:
        """End a job that was cancelled and goes on: GeneratorExit is raised where it waits, and it is awaited no more.

        Drastic, and only for the end: asyncio.run would wait for such a task for ever, and the process would not end.
        """
        if self.task is not None and not self.task.done():
            self.interrupted = True
            self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self.task.get_coro().close()
            self.task.cancel()  # its next step finds out

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.started

    # What the job does.

    def run(self) -> Coroutine[Any, Any, Outcome | None]:
        """Run the job once. None when it completed itself in a transaction of its own. Raises whatever the job raises."""
        definition = registry.find(self.job.kind)
        self.options = definition.options_of(self.job.method)
        wanted = definition.dependencies(self.job.method)
        if wanted:
            return self._call_supplied(definition, wanted)
        return self._call(definition.bind(self.job.method, self.job.args, self.codec, {}))

    async def _call_supplied(self, definition: registry.Kind, wanted: frozenset[Any]) -> Outcome | None:
        async with supplied(self.provide, wanted) as supply:
            return await self._call(definition.bind(self.job.method, self.job.args, self.codec, supply))

    async def _call(self, call: Call) -> Outcome | None:
        self.running.result_type = call.result_type
        timeout = self._timeout() if self.job.options or self.options["timeout"] is not None else None
        timer = None
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, self._time_out, timeout)
        try:
            if call.needed is not None:
                self.running.is_asked = True
                if not await self._is_needed(call, call.needed):
                    return self._finished(FinalState.SKIPPED)
                self.running.is_asked = False
            value = await (call.function() if call.is_async else self._in_thread(call.function, call.what))
        finally:
            if timer is not None:
                timer.cancel()
        if self.running.completed:
            return None
        if self.running.handed_over:
            # Right when that transaction was rolled back after all. When it was committed, the fence refuses this.
            return self._failed(
                _RolledBack("the transaction that completed the job was rolled back"), loud=False
            )
        if issubclass(type(value), Snooze | Cancel):  # not isinstance: it runs the value's own code
            raise value
        return self._completed(call, value)

    async def _is_needed(self, call: Call, needed: Callable[[], Any]) -> bool:
        """Asked where the job itself would run: a sync job's sync question may block."""
        if call.is_async or is_async(needed):
            answer = needed()
            return bool(await answer if _is_awaitable(answer) else answer)
        return bool(await self._in_thread(needed, call.what))

    async def _in_thread(self, function: Callable[[], Any], what: str) -> Any:
        self.thread = ThreadCall(function, what, self._left_thread)
        value = await self.thread.result()
        return await value if _is_awaitable(value) else value

    def _left_thread(self) -> None:
        self.thread = None

    def _time_out(self, timeout: float) -> None:
        if self.thread is not None:
            logger.warning(
                "job %s (%s) runs in a thread and is over its timeout of %g s; a thread cannot be stopped",
                self.job.id,
                self.job.kind,
                timeout,
            )
        self.stop("timeout")

    # What it came to.

    def _finished(self, state: FinalState) -> Finished:
        return Finished(self.job, state, self.elapsed)

    def _completed(self, call: Call, value: Any) -> Finished:
        done = self._finished(FinalState.COMPLETED)
        if value is None and call.result_type in (None, type(None), Any):
            return done
        try:
            done.result = self.codec.encode_value(value, call.result_type, what=f"the result of {call.what}")
        except Exception as error:  # not only InvalidInput: a result's own code is run to write it
            done.result_error = storable_text(
                str(error) if isinstance(error, InvalidInput) else words_of(error)
            )
            # Not in the log: the reason shows what cannot be stored.
            logger.warning(
                "job %s (%s) completed, but its result is not kept; its result_error says why",
                self.job.id,
                self.job.kind,
            )
        return done

    def came_to(self, error: BaseException) -> Outcome | None:
        """What becomes of the job now that *error* was raised. None: nothing is to be written for it."""
        job = self.job
        if self.running.completed:  # it is committed: nothing can make it undone
            if not isinstance(error, asyncio.CancelledError):
                _log(logging.ERROR, error, "job %s (%s) raised after it was completed", job.id, job.kind)
            return None
        if "lost" in self.stopped_for or "abandoned" in self.stopped_for:
            return None
        if "cancel" in self.stopped_for or isinstance(error, Cancel):
            done = self._finished(FinalState.CANCELLED)
            if not isinstance(error, asyncio.CancelledError | GeneratorExit | Snooze):
                done.error = error_json(job, error, with_traceback=not isinstance(error, Cancel))
            return done
        if isinstance(error, Snooze):
            return Returned(job, LiveState.SCHEDULED, delay=error.delay, unburnt=True)
        if self.interrupted and self.stopped_for[:1] == ("shutdown",):
            if not isinstance(error, asyncio.CancelledError | GeneratorExit):
                _log(
                    logging.WARNING,
                    error,
                    "job %s (%s) raised when it was stopped, and is given back",
                    job.id,
                    job.kind,
                )
            return Returned(job, LiveState.READY, unburnt=True)
        if error is self.running.cut_off and not self.running.handed_over:
            # Nothing was written: an outage must not use up the attempts, whatever its length.
            logger.warning(
                "job %s (%s) found no database, and runs again; the attempt does not count: %s",
                job.id,
                job.kind,
                words_of(error),
            )
            return Returned(job, LiveState.RETRYABLE, delay=self._wait(), unburnt=True)
        if isinstance(error, asyncio.CancelledError):
            if self.interrupted and self.stopped_for[:1] == ("timeout",):
                error = _as(
                    TimeoutError(f"the attempt took longer than its timeout of {self._timeout():g} s"), error
                )
            else:
                error = _as(
                    asyncio.CancelledError("the job raised it itself, or cancelled its own task"), error
                )
        return self._failed(error)

    def _failed(self, error: BaseException, *, loud: bool = True) -> Outcome:
        job = self.job
        last = job.attempt >= job.max_attempts
        _log(
            logging.ERROR if loud else logging.DEBUG,
            error,
            "job %s (%s) raised after complete(on=…); unless that was committed, it failed at attempt %s of %s%s"
            if self.running.handed_over
            else "job %s (%s) failed at attempt %s of %s%s",
            job.id,
            job.kind,
            job.attempt,
            job.max_attempts,
            ", its last" if last else "",
            extra={"job_id": job.id, "kind": job.kind, "attempt": job.attempt},
        )
        text = error_json(job, error)
        if last:
            done = self._finished(FinalState.FAILED)
            done.error = text
            return done
        return Returned(job, LiveState.RETRYABLE, delay=self._wait(), error=text)

    def _wait(self) -> float:
        """Seconds until the next attempt. A backoff may be the user's own code, and wrong."""
        try:
            own = self._own_options
            backoff = backoff_from_json(own["backoff"]) if "backoff" in own else self.options["backoff"]
            wait = seconds(backoff.delay(self.job.attempt, random.random()), "backoff")
        except Exception as error:
            _log(logging.ERROR, error, "the backoff of %s is wrong; the default is used", self.job.kind)
            wait = Exponential().delay(self.job.attempt, random.random()).total_seconds()
        return wait

    def _timeout(self) -> float | None:
        own = self._own_options
        given = own["timeout"] if "timeout" in own else self.options["timeout"]
        return None if given is None else seconds(given, "timeout")

    @property
    def _own_options(self) -> dict[str, Any]:
        own = orjson.loads(self.job.options) if self.job.options else {}
        if type(own) is not dict:
            raise InvalidOption("the stored options are not an object of names and values")
        return own


def _is_awaitable(value: Any) -> bool:
    return hasattr(type(value), "__await__")


class _RolledBack(Exception):
    """`complete(on=…)` was undone by its transaction's owner."""


def _as(said: BaseException, error: BaseException) -> BaseException:
    """*said*, raised where *error* was."""
    return said.with_traceback(error.__traceback__)


def _log(level: int, error: BaseException, message: str, *args: Any, extra: Any = None) -> None:
    """Log with the traceback, if that can be had: it runs the error's own code, which may raise anything.

    Not that of an error which shows a job's inputs, nor of one that would fill the log.
    """
    if type(error) is UndecodableInput:
        message += ": its stored inputs do not fit the definition here; its errors say where"
        logger.log(level, message, *args, extra=extra)
        return
    try:
        is_short = len(str(error)) <= MOST_LOGGED
        if is_short:
            logger.log(level, message, *args, exc_info=error, extra=extra)
    except BaseException:
        is_short = False
    if not is_short:
        logger.log(level, f"{message}: %s", *args, words_of(error), extra=extra)  # noqa: G004 -- the same message


def words_of(error: BaseException) -> str:
    """What *error* says, whatever it does when asked."""
    try:
        said = str.__str__(str(error))  # of a subclass, an own __format__ would be asked
    except BaseException:
        said = "(what it says cannot be had: its __str__ raises)"
    return f"{type(error).__name__}: {said}"[:MOST_WORDS]


def error_json(job: ClaimedJob, error: BaseException, *, with_traceback: bool = True) -> str:
    """What is remembered of a failed attempt, as JSON Postgres can store."""
    words = words_of(error)
    remembered: dict[str, Any] = {"attempt": job.attempt, "error": storable_text(words)}
    if with_traceback:
        try:
            trace = "".join(traceback.format_exception(error))
        except BaseException:  # too deep, or code of the error's own raises
            trace = "".join(traceback.format_tb(error.__traceback__)) + words
        remembered["traceback"] = storable_text(trace[-MOST_TRACEBACK:])
    return orjson.dumps(remembered).decode()


def storable_text(text: str) -> str:
    """*text* without what Postgres refuses: NUL and lone surrogates, written out instead."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
