"""What becomes of a job that says a verb, whether it raised, returned or settled it. Pure, but for what an error says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncjobs._engine.telling import MOST_TRACEBACK, error_json
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.options import KEPT
from asyncjobs._model.outcome import Finished, Kept, Outcome, Returned
from asyncjobs._model.states import FinalState, LiveState
from asyncjobs._model.verbs import Cancel, Discard, Fail, Retry, Skip, Snooze, Verb


def ended(job: ClaimedJob, state: FinalState, elapsed: float, options: Mapping[str, Any]) -> Finished:
    """*job* is final; what stays of it its kind's *options* say."""
    done = Finished(job, state, elapsed)
    kept = options.get("keep_failed" if state is FinalState.FAILED else "keep")
    if kept is not None:
        done.kept = KEPT[kept]
    return done


def outcome_of(
    verb: Verb, job: ClaimedJob, elapsed: float, options: Mapping[str, Any], *, most: int = MOST_TRACEBACK
) -> Outcome:
    """What *verb* means for *job*. Not `Finish`, whose result is still to be written."""
    if isinstance(verb, Snooze):
        return Returned(job, LiveState.SCHEDULED, delay=verb.delay, unburnt=True)
    if isinstance(verb, Retry) and job.attempt < job.max_attempts:
        error = error_json(job, meant(verb), most=most)
        return Returned(job, LiveState.RETRYABLE, delay=verb.delay, error=error)
    done = ended(job, _final(verb), elapsed, options)
    if isinstance(verb, Retry | Fail):
        done.error = error_json(job, meant(verb), most=most)
    elif isinstance(verb, Cancel) or (isinstance(verb, Skip) and verb.reason is not None):
        done.error = error_json(job, verb, with_traceback=False)
    elif isinstance(verb, Discard):
        done.kept = Kept.NOTHING
    return done


def _final(verb: Verb) -> FinalState:
    if isinstance(verb, Skip):
        return FinalState.SKIPPED
    return FinalState.CANCELLED if isinstance(verb, Cancel | Discard) else FinalState.FAILED


def meant(error: BaseException) -> BaseException:
    """What is kept of a `Retry` or a `Fail`: what it was raised for, unless it says so itself."""
    if isinstance(error, Retry | Fail) and error.reason is None:
        return error.__cause__ or (None if error.__suppress_context__ else error.__context__) or error
    return error
