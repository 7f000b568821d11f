"""When a SQLAlchemy session's outermost transaction has committed, tell who waits for it.

What was asked for inside a savepoint is forgotten when that savepoint is rolled back. A session bound to a connection that
has a transaction of its own tells too early, which wakes for nothing; the notification of the real commit wakes rightly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger("asyncjobs")

OURS = "asyncjobs"
"""Where a session's `info` keeps its endings: they live as long as the session, and no longer."""


def when_committed(session: Any, tell: Callable[[], None]) -> None:
    """Call *tell* after the outermost transaction of *session*, a sync one, has committed; never when it is rolled back."""
    endings = session.info.get(OURS)
    if endings is None:
        endings = session.info[OURS] = Endings(session)
    endings.add(session, tell)


class Endings:
    """What one session's transactions will have to tell."""

    def __init__(self, session: Any) -> None:
        from sqlalchemy import event  # noqa: PLC0415 -- whoever passes a session has it

        self._waiting: list[tuple[Any, Callable[[], None]]] = []
        self._committed: Any = None
        # For the session's life: SQLAlchemy cannot take a listener off while it is calling it.
        event.listen(session, "after_commit", self._commits)
        event.listen(session, "after_transaction_end", self._ends)

    def add(self, session: Any, tell: Callable[[], None]) -> None:
        """*tell*, if what is the innermost transaction now commits, and all around it."""
        self._waiting.append((_innermost(session), tell))

    def _commits(self, session: Any) -> None:
        self._committed = _innermost(session)  # a savepoint's release is told as a commit, too

    def _ends(self, _: Any, transaction: Any) -> None:
        committed, self._committed = self._committed is transaction, None
        if not committed:
            self._waiting = [each for each in self._waiting if transaction not in _around(each[0])]
        elif transaction.parent is None:
            told, self._waiting = self._waiting, []
            for _, tell in told:
                try:
                    tell()
                except Exception:  # it is committed: nothing of ours may make that look like a failure
                    logger.exception("a session's commit could not be told of")


def _innermost(session: Any) -> Any:
    return session.get_nested_transaction() or session.get_transaction()


def _around(transaction: Any) -> Iterator[Any]:
    """*transaction*, and those it is nested in."""
    while transaction is not None:
        yield transaction
        transaction = transaction.parent
