"""The times of the keeper's protocol."""

from __future__ import annotations

import attrs


@attrs.frozen
class Vigilance:
    """The times of the protocol, in seconds."""

    look_every: float = 1.0  #: between looks for the dead, and for requests that no notification brought
    lease: float = 20.0  #: how long a runner that holds no lock is believed alive
    renew_every: float = 5.0
    settle: float = (
        10.0  #: after connecting, a free lock or an old lease proves nothing: the server may have been away
    )
    answer: float = 5.0  #: a statement that takes longer means a dead network
    max_crashes: int = 3  #: runners a job may take down before it is failed
