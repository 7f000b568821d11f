"""The lock of a job that is about to be stored."""

from __future__ import annotations

from typing import Any

import attrs

from asyncjobs._define.history import NO_HISTORY, History
from asyncjobs._define.keys import Chosen, make_key
from asyncjobs._model.job import NewJob
from asyncjobs._model.lock import lock_of


def locked(job: NewJob, given: Any, chosen: Chosen, history: History = NO_HISTORY) -> NewJob:
    """*job*, with the lock that `lock=` *given* means for it. Kept in its options, too, for a retry once it is final."""
    lock = lock_of(given)
    if lock is None:
        return job
    key = make_key(lock, chosen, history.first_name(job.kind))
    options = {**(job.options or {}), "lock": {"key": key, "slots": lock.slots}}
    return attrs.evolve(job, lock_key=key, lock_slots=lock.slots, options=options)
