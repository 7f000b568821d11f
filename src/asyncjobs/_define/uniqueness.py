"""The unique key of a job that is about to be stored."""

from __future__ import annotations

from typing import Any

import attrs

from asyncjobs._define.history import NO_HISTORY, History
from asyncjobs._define.keys import Chosen, make_key
from asyncjobs._model.job import NewJob
from asyncjobs._model.unique import unique_of


def unique(job: NewJob, given: Any, chosen: Chosen, history: History = NO_HISTORY) -> NewJob:
    """*job*, with the key that `unique=` *given* means for it. Kept in its options, too, for a retry once it is final.

    Two methods of one object are two jobs, so a kind's methods have their keys for themselves.
    """
    rule = unique_of(given)
    if rule is None:
        return job
    space = history.first_name(job.kind)
    if job.method is not None:
        space = f"{space}.{history.first_method(job.method)}"
    key = make_key(rule, chosen, space)
    to_start = rule.until == "start"
    return attrs.evolve(
        job,
        unique_key=key,
        unique_to_start=to_start,
        unique_window=rule.window,
        on_conflict=rule.on_conflict,
        options={**(job.options or {}), "unique": {"key": key, "to_start": to_start}},
    )
