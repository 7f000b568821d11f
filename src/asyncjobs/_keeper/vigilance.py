"""The times of the keeper's protocol."""

from __future__ import annotations

import attrs


@attrs.frozen
class Vigilance:
    """The times of the protocol, in seconds. All that hold between processes are told to the others in the tables.

    A runner that holds a lock and dies is missed within two looks. One whose host is gone holds its lock until Postgres has
    waited for its answer (some 6 s: `prepare_session.sql`). One that holds no lock is missed when its lease is over. One whose
    process stands still, and holds its lock all the same, is missed after `frozen`.
    """

    #: Between looks for the dead, and for requests that no notification brought. A free lock is believed at the second
    #: look, so a killed process' jobs start after one to two of these. A look is one statement that reads a short table
    #: and tries each peer's lock.
    look_every: float = 0.5

    #: How long a runner that holds no lock is believed alive: four renewals, so that three may go astray.
    lease: float = 20.0
    renew_every: float = 5.0

    #: How long a lock is believed of a runner that renews nothing: of a process that was stopped and never went on. A call that
    #: keeps the interpreter to itself for so long looks the same.
    frozen: float = 600.0

    #: After connecting, a free lock or an old lease proves nothing: a restarted server has freed every lock at once, and a
    #: long absence has let every lease run out. Five times the longest pause between two tries to connect again.
    settle: float = 10.0

    #: A statement of the keeper's that takes longer means a dead network: all of them take milliseconds.
    answer: float = 5.0

    #: Between comparisons of what the database says this runner holds with what it knows of, while there is a reason: a claim
    #: that is long under way, or a former incarnation. Jobs whose claim's reply was lost are found by the second. Where they
    #: take long, because very many jobs wait or the network is slow, they are made less often.
    reconcile_every: float = 1.0

    max_crashes: int = 3  #: runners a job may take down before it is failed
    alone: float = 30.0  #: how long a job that may have taken one down has its next runner to itself

    @property
    def fence_after(self) -> float:
        """Without a lock, how long after its last renewal a runner stops what it runs: what is left of the lease is for
        cleaning up.
        """
        return self.lease * 0.75
