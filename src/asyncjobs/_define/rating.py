"""The rate of a job that is about to be stored, and what it weighs."""

from __future__ import annotations

from typing import Any

import attrs

from asyncjobs._define.faithful import shorten
from asyncjobs._define.history import NO_HISTORY, History
from asyncjobs._define.keys import Chosen, hashed
from asyncjobs._model.job import NewJob
from asyncjobs._model.limits import WINDOWS, Rate, rate_of
from asyncjobs.errors import InvalidInput


def rated(job: NewJob, given: Any, chosen: Chosen, history: History = NO_HISTORY) -> NewJob:
    """*job*, with the rate that `rate=` *given* means for it. Kept in its options, too, for a retry once it is final."""
    rate = rate_of(given)
    if rate is None:
        return job
    space = history.first_name(job.kind) if rate.namespace is None else rate.namespace
    key = hashed([space, dict(chosen(rate.by)) if rate.by else {}])
    weight = rate.weight if isinstance(rate.weight, int) else _weight(rate, rate.weight, job, chosen)
    window = WINDOWS[rate.window]
    kept = {"key": key, "weight": weight, "capacity": rate.capacity, "per": rate.length, "window": window}
    return attrs.evolve(
        job,
        rate_key=key,
        rate_weight=weight,
        rate_capacity=rate.capacity,
        rate_per=rate.length,
        rate_window=window,
        options={**(job.options or {}), "rate": kept},
    )


def _weight(rate: Rate, name: str, job: NewJob, chosen: Chosen) -> int:
    weight = chosen((name,))[name]
    if type(weight) is not int or weight < 1:
        raise InvalidInput(
            f"{job.kind} cannot weigh {shorten(weight)}, as its {name!r} says; rate= counts whole tokens, 1 or more"
        )
    if weight > rate.capacity:
        raise InvalidInput(
            f"{job.kind} weighs {weight}, as its {name!r} says, and its rate never holds more than {rate.capacity} tokens, so it "
            "could never begin; make it smaller, in several jobs, or raise the rate"
        )
    return weight
