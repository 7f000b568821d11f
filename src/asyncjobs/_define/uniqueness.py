"""The unique key of a job that is about to be stored."""

from __future__ import annotations

from typing import Any

import attrs

from asyncjobs._define.keys import Chosen, make_key
from asyncjobs._model.job import NewJob
from asyncjobs._model.unique import unique_of


def unique(job: NewJob, given: Any, chosen: Chosen) -> NewJob:
    """*job*, with the key that `unique=` *given* means for it. Kept in its options, too, for a retry once it is final.

    Two methods of one object are two jobs, so a kind's methods have their keys for themselves.
    """
    rule = unique_of(given)
    if rule is None:
        return job
    key = make_key(rule, chosen, job.kind if job.method is None else f"{job.kind}.{job.method}")
    to_start = rule.until == "start"
    return attrs.evolve(
        job,
        unique_key=key,
        unique_to_start=to_start,
        unique_window=rule.window,
        on_conflict=rule.on_conflict,
        options={**(job.options or {}), "unique": {"key": key, "to_start": to_start}},
    )
