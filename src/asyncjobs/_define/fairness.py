"""Whose turn a job takes that is about to be stored."""

from __future__ import annotations

from typing import Any

import attrs

from asyncjobs._define.keys import Chosen, hashed
from asyncjobs._model.fair import fair_names
from asyncjobs._model.job import NewJob


def fair(job: NewJob, given: Any, chosen: Chosen) -> NewJob:
    """*job*, with the key that `fair=` *given* means for it. Kept in its options, too, for a retry once it is final.

    Made of the values alone: a tenant is the same in jobs of all kinds, whatever each calls it.
    """
    key = hashed([*chosen(fair_names(given)).values()])
    return attrs.evolve(job, fair_key=key, options={**(job.options or {}), "fair": key})
