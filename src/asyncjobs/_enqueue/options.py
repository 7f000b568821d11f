"""The options of one call of `later`: those of a job, and how and when this one is enqueued."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from asyncjobs._enqueue.enqueuer import Enqueuer
from asyncjobs._model.backoff import backoff_to_json
from asyncjobs._model.durations import Duration, moment, seconds
from asyncjobs._model.options import JOB_WORDS, JobOptions, check_values, check_words
from asyncjobs.errors import InvalidOption


class LaterOptions(JobOptions, total=False):
    """What may be said of one call."""

    on: Any  #: the connection or session whose transaction the job joins
    jobs: Enqueuer  #: the Jobs to enqueue with, where it is not clear from the context
    delay: Duration  #: due so long after the database's now
    at: datetime  #: due then; aware


LATER_WORDS = JOB_WORDS | {"on", "jobs", "delay", "at"}


def check_later_options(given: Mapping[str, Any], where: str) -> None:
    """Refuse what makes no sense, in the caller."""
    check_words(given, LATER_WORDS, where)
    check_values(given)
    if "backoff" in given:
        backoff_to_json(given["backoff"])
    if "delay" in given and "at" in given:
        raise InvalidOption("delay= and at= both say when; give one of them")
    if "delay" in given:
        seconds(given["delay"], "delay")
    if "at" in given:
        moment(given["at"], "at")
    if "jobs" in given and not isinstance(given["jobs"], Enqueuer):
        raise InvalidOption(
            f"jobs= got {type(given['jobs']).__name__}, which is no Jobs"
        )  # it may be a DSN: not shown
