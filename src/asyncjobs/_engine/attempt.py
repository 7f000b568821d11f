"""One attempt at one job, and what it came to. No SQL, no connection: those are the completer's.

Whatever a job raises becomes an outcome, except in an attempt that nobody may write for any more. The outermost coroutine
of the job's task has to make it one (`came_to`): a GeneratorExit from outside closes every coroutine below it unheard.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import orjson

from asyncjobs._define import registry
from asyncjobs._define.call import Call, is_async
from asyncjobs._define.codec import Codec
from asyncjobs._define.former import Former
from asyncjobs._define.kind import Kind
from asyncjobs._define.methods import UnknownMethod
from asyncjobs._engine.around import NOTHING_AROUND, Around
from asyncjobs._engine.context import RolledBack, RunningJob
from asyncjobs._engine.hooks import Told
from asyncjobs._engine.supply import Provide, supplied
from asyncjobs._engine.telling import error_json, log_error, storable_text, words_of
from asyncjobs._engine.threads import ThreadCall
from asyncjobs._engine.verdict import ended, meant, outcome_of
from asyncjobs._model.backoff import Exponential, backoff_from_json
from asyncjobs._model.durations import seconds
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.options import DEFAULTS
from asyncjobs._model.outcome import Finished, Outcome, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._model.verbs import Cancel, Fail, Finish, Retry, Skip, Verb, only_verb, says_verb
from asyncjobs.errors import InvalidInput, InvalidOption, UndecodableInput

logger = logging.getLogger("asyncjobs")

LEFT_TO_OTHERS = 10.0, 3600.0
"""Seconds until a job whose method is not known here is claimed again, with luck by newer code: about so many at first, and a quarter
of the time for which the method has been missing later; at most so many."""


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
    what: str = "the job"  #: for messages
    around: Around = NOTHING_AROUND
    wait: float | None = None  #: seconds until the next attempt, where the object says so
    is_quiet: bool = False  #: its error is not logged, by the object's own word
    error: BaseException | None = None  #: what failed it
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
        """Run the job once. None when it settled itself in a transaction of its own. Raises whatever the job raises."""
        if self.around.middleware:
            return self._run_heard()
        return self._begin()

    async def _run_heard(self) -> Outcome | None:
        """Run it where middleware is told of errors: also of those before there was anything to call."""
        try:
            return await self._begin()
        except BaseException as raised:
            return await Told(self, NO_CALL).hear(raised)

    def _begin(self) -> Coroutine[Any, Any, Outcome | None]:
        definition = registry.find(self.job.kind)
        self.options = definition.options_of(self.job.method)
        if self.job.meta is not None and (came := self.around.came_along(self.job.meta)):
            return self._run_in_context(definition, came)
        return self._run(definition)

    def _brought_up_to_date(self, former: Former) -> Kind:
        """Upcast the inputs once, before anything reads them: what provides dependencies sees those the object gets."""
        try:
            self.running.todays_args = former.todays(self.job.args, self.codec)
        except UndecodableInput as error:
            raise self._placed(error) from None
        return former.definition

    @property
    def args(self) -> str:
        """The inputs, in the shape of today."""
        return self.job.args if self.running.todays_args is None else self.running.todays_args

    async def _run_in_context(self, definition: Kind, came: dict[str, Any]) -> Outcome | None:
        with self.around.restored(came):
            return await self._run(definition)

    def _run(self, definition: Kind) -> Coroutine[Any, Any, Outcome | None]:
        if isinstance(definition, Former):
            definition = self._brought_up_to_date(definition)
        wanted = definition.dependencies(self.job.method)
        if wanted:
            return self._call_supplied(definition, wanted)
        try:
            call = definition.bind(self.job.method, self.args, self.codec, {})
        except UndecodableInput as error:
            raise self._placed(error) from None
        return self._call(call)

    async def _call_supplied(self, definition: Kind, wanted: frozenset[Any]) -> Outcome | None:
        async with supplied(self.provide, wanted) as supply:
            try:
                call = definition.bind(self.job.method, self.args, self.codec, supply)
            except UndecodableInput as error:
                raise self._placed(error) from None
            return await self._call(call)

    def _placed(self, error: UndecodableInput) -> UndecodableInput:
        """*error*, which says what does not fit, saying also of which kind and version."""
        error.args = (f"{error} ({registry.as_stored(self.job.kind)})",)
        return error

    def _call(self, call: Call) -> Coroutine[Any, Any, Outcome | None]:
        if call.hooks is None and not self.around.middleware:
            return self.perform(call)
        return Told(self, call).perform()

    async def perform(self, call: Call) -> Outcome | None:
        """Call it, within its time. Raises whatever it raises."""
        self.running.result_type, self.what = call.result_type, call.what
        timeout = self.timeout() if self._has_timeout else None
        timer = None
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, self._time_out, timeout)
        try:
            if call.needed is not None:
                await self.check_needed(call, call.needed)
            value = await (call.function() if call.is_async else self._in_thread(call.function, call.what))
        except BaseExceptionGroup as group:  # of a task group, in which one task said a verb
            value = only_verb(group)
            if value is None:
                raise
        finally:
            if timer is not None:
                timer.cancel()
        if self.running.completed:
            return None
        if self.running.handed_over:
            # Right when that transaction was rolled back after all. When it was committed, the fence refuses this.
            outcome = self._failed(
                RolledBack("the transaction that settled the job was rolled back"), loud=False
            )
            outcome.is_in_doubt = True
            return outcome
        if says_verb(value):
            raise value
        return self._completed(value)

    async def check_needed(self, call: Call, needed: Callable[[], Any]) -> None:
        """Ask whether there is still something to do. Raises Skip when not."""
        self.running.is_asked = True
        answer = await self.ask(call, needed)
        if says_verb(answer):
            raise answer
        if not answer:
            raise Skip
        self.running.is_asked = False

    async def ask(self, call: Call, question: Callable[[], Any]) -> Any:
        """What *question* says, asked where the job itself runs: a sync job's sync question may block."""
        if call.is_async or is_async(question):
            answer = question()
            return await answer if _is_awaitable(answer) else answer
        return await self._in_thread(question, call.what)

    async def value_of(self, call: Call) -> Any:
        """What the job returns."""
        return await (call.function() if call.is_async else self._in_thread(call.function, call.what))

    async def _in_thread(self, function: Callable[[], Any], what: str) -> Any:
        if self.thread is not None:  # it is known until it ends: the job is not given back before
            raise RuntimeError("an earlier hook is over its time, and still runs in its thread")
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
        return ended(self.job, state, self.elapsed, self.options)

    def _completed(self, value: Any) -> Finished:
        done = self._finished(FinalState.COMPLETED)
        declared = self.running.result_type
        if value is None and declared in (None, type(None), Any):
            return done
        try:
            done.result = self.codec.encode_value(value, declared, what=f"the result of {self.what}")
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
                log_error(logging.ERROR, error, "job %s (%s) raised after it was completed", job.id, job.kind)
            return None
        if "lost" in self.stopped_for or "abandoned" in self.stopped_for:
            return None
        if isinstance(error, Finish):
            return self._completed(error.result)
        if "cancel" in self.stopped_for and not isinstance(error, Cancel):
            done = self._finished(FinalState.CANCELLED)
            if not isinstance(error, asyncio.CancelledError | GeneratorExit | Verb):
                done.error = error_json(job, error)
            return done
        if isinstance(error, Verb):
            return self._said(error)
        if self.interrupted and self.stopped_for[:1] == ("shutdown",):
            if not isinstance(error, asyncio.CancelledError | GeneratorExit):
                log_error(
                    logging.WARNING,
                    error,
                    "job %s (%s) raised when it was stopped, and is given back",
                    job.id,
                    job.kind,
                )
            return Returned(job, LiveState.READY, unburnt=True)
        if self._is_cut_off(error):
            return self._found_no_database(error)
        if isinstance(error, UnknownMethod):
            return self._leave_to_others(error)
        return self._failed(self._plain(error))

    def error_in(self, raised: BaseException) -> BaseException | None:
        """The error that fails the attempt; None where none does: a verb was said, somebody stopped it, Postgres is away."""
        if self.running.completed or "cancel" in self.stopped_for or isinstance(raised, Verb):
            return None
        if self._is_cut_off(raised) or isinstance(raised, UnknownMethod):
            return None
        if self.interrupted and self.stopped_for[:1] == ("shutdown",):
            return None
        return self._plain(raised)

    def _is_cut_off(self, error: BaseException) -> bool:
        """*error* is that a transaction of the job's own could not be begun: nothing was written."""
        return error is self.running.cut_off and not self.running.handed_over

    def _found_no_database(self, error: BaseException) -> Returned:
        """An outage must not use up the attempts, whatever its length."""
        job = self.job
        logger.warning(
            "job %s (%s) found no database, and runs again; the attempt does not count: %s",
            job.id,
            job.kind,
            words_of(error),
        )
        return Returned(job, LiveState.RETRYABLE, delay=self._wait(), unburnt=True)

    def _leave_to_others(self, error: UnknownMethod) -> Returned:
        """A method that newer code has is nothing that fails a job, as a kind is not: who knows it may claim it."""
        job = self.job
        logger.log(
            logging.DEBUG if error.known_for else logging.WARNING,
            "job %s is left to a process that knows its method, as are others like it, and no attempt counts: %s",
            job.id,
            error,
        )
        text = error_json(job, error, with_traceback=False)
        least, most = LEFT_TO_OTHERS
        delay = min(max(least, error.known_for / 4), most) * random.uniform(0.8, 1.2)
        return Returned(job, LiveState.RETRYABLE, delay=delay, unburnt=True, error=text)

    def _plain(self, error: BaseException) -> BaseException:
        """*error*, or in words what it means that the job was cancelled."""
        if not isinstance(error, asyncio.CancelledError):
            return error
        if self.interrupted and self.stopped_for[:1] == ("timeout",):
            return _as(
                TimeoutError(f"the attempt took longer than its timeout of {self.timeout():g} s"), error
            )
        return _as(asyncio.CancelledError("the job raised it itself, or cancelled its own task"), error)

    def _said(self, verb: Verb) -> Outcome:
        outcome = outcome_of(verb, self.job, self.elapsed, self.options, most=self.around.traceback_limit)
        if isinstance(verb, Retry | Fail):
            is_final = isinstance(outcome, Finished)
            if meant(verb) is verb and not is_final:
                self._log_retry(verb)
            else:
                self._log_failure(meant(verb), is_last=is_final)
        return outcome

    def _log_retry(self, verb: Verb) -> None:
        """Nothing went wrong that the job did not expect: its word is enough, without the stack it was said from."""
        job, self.error = self.job, verb
        log = logger.debug if self.is_quiet else logger.info
        what = job.id, job.kind, job.attempt, job.max_attempts, words_of(verb)
        log(
            "job %s (%s) asked for another attempt after %s of %s: %s",
            *what,
            extra={"job_id": job.id, "kind": job.kind, "attempt": job.attempt},
        )

    def _failed(self, error: BaseException, *, loud: bool = True) -> Outcome:
        """The attempt failed. One whose stored inputs do not fit is not tried again: they would not fit then either."""
        job = self.job
        last = job.attempt >= job.max_attempts or isinstance(error, UndecodableInput)
        self._log_failure(error, is_last=last, loud=loud)
        text = error_json(job, error, most=self.around.traceback_limit)
        if last:
            done = self._finished(FinalState.FAILED)
            done.error = text
            return done
        return Returned(job, LiveState.RETRYABLE, delay=self._wait(), error=text)

    def _log_failure(self, error: BaseException, *, is_last: bool, loud: bool = True) -> None:
        job, self.error = self.job, error
        loud = loud and not self.is_quiet
        log_error(
            logging.ERROR if loud else logging.DEBUG,
            error,
            "job %s (%s) raised after complete(on=…); unless that was committed, it failed at attempt %s of %s%s"
            if self.running.handed_over
            else "job %s (%s) failed at attempt %s of %s%s",
            job.id,
            job.kind,
            job.attempt,
            job.max_attempts,
            ", its last" if is_last else "",
            extra={"job_id": job.id, "kind": job.kind, "attempt": job.attempt},
        )

    def _wait(self) -> float:
        """Seconds until the next attempt. A backoff may be the user's own code, and wrong."""
        if self.wait is not None:
            return self.wait
        try:
            own = self._own_options
            backoff = backoff_from_json(own["backoff"]) if "backoff" in own else self.options["backoff"]
            wait = seconds(backoff.delay(self.job.attempt, random.random()), "backoff")
        except BaseException as error:
            log_error(logging.ERROR, error, "the backoff of %s is wrong; the default is used", self.job.kind)
            wait = Exponential().delay(self.job.attempt, random.random()).total_seconds()
        return wait

    @property
    def _has_timeout(self) -> bool:
        return (
            bool(self.job.options) or self.options["timeout"] is not None or self.around.timeout is not None
        )

    def timeout(self) -> float | None:
        """Seconds one attempt may take: its own word, but no more than the runner allows, unless its kind may."""
        own = self._own_options
        given = own["timeout"] if "timeout" in own else self.options["timeout"]
        most = None if self.options.get("overtime") else self.around.timeout
        if given is None:
            return most
        return seconds(given, "timeout") if most is None else min(seconds(given, "timeout"), most)

    @property
    def _own_options(self) -> dict[str, Any]:
        own = orjson.loads(self.job.options) if self.job.options else {}
        if type(own) is not dict:
            raise InvalidOption("the stored options are not an object of names and values")
        return own


def _is_awaitable(value: Any) -> bool:
    return hasattr(type(value), "__await__")


async def _nothing() -> None: ...


NO_CALL = Call(_nothing, True, Any, "the job")
"""Of an attempt that failed before it was known what to call."""


def _as(said: BaseException, error: BaseException) -> BaseException:
    """*said*, raised where *error* was."""
    return said.with_traceback(error.__traceback__)
