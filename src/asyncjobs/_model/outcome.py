"""What an attempt came to. An attempt ends in one of these values, and the completer writes it."""

from __future__ import annotations

from enum import IntEnum

import attrs

from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.states import FinalState, LiveState


class Kept(IntEnum):
    """What stays of a job that is final."""

    NOTHING = 0
    WITHOUT_ARGS = 1
    ROW = 2


@attrs.define(eq=False)  # made for every job: a frozen one costs three times as much
class Finished:
    """The job is final."""

    job: ClaimedJob
    state: FinalState
    elapsed: float  #: seconds the attempt took
    result: str | None = None  #: JSON text
    result_error: str | None = None  #: why the result could not be stored
    error: str | None = None  #: JSON text of the attempt's error
    kept: Kept | None = None  #: None: the whole row
    is_in_doubt: bool = False  #: a transaction of the job's own may have settled it already


@attrs.define(eq=False)
class Returned:
    """The job goes back to wait: for a retry, because it was snoozed, or because this runner stops."""

    job: ClaimedJob
    state: LiveState
    delay: float | None = None  #: seconds from the database's now; None keeps its place in the queue
    unburnt: bool = False  #: the attempt is given back
    error: str | None = None  #: JSON text of the attempt's error
    is_in_doubt: bool = False  #: a transaction of the job's own may have settled it already


Outcome = Finished | Returned
