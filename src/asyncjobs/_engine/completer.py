"""Write what attempts came to, as many at a time as have gathered, until the database has them or says they are not ours.

Self-clocked: while one statement is under way the next outcomes gather. An idle runner writes one at once; a busy one
writes hundreds. Outcomes are kept until written: an outage delays them, whatever its length.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import anyio
import attrs
import orjson

from asyncjobs._engine.identity import Identity
from asyncjobs._engine.link import Patience, link
from asyncjobs._engine.turnstile import GATHER
from asyncjobs._model.job import ClaimedJob
from asyncjobs._model.outcome import Finished, Kept, Outcome, Returned
from asyncjobs._store.claims import A_BATCH, Claim, find_finished, find_locked, finish_jobs, return_jobs
from asyncjobs._store.faults import discreet, is_bad_data, is_transient, sqlstate
from asyncjobs._store.session import Session
from asyncjobs._store.source import Source

logger = logging.getLogger("asyncjobs")

AGAIN_AFTER = 5.0  #: seconds until what the database refused, though nothing is wrong with it, is tried again


class Completer:
    """Takes outcomes, and writes them."""

    def __init__(
        self,
        source: Source,
        schema: str,
        identity: Identity,
        settled: Callable[[ClaimedJob], None],
        expects_more: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source = source
        self._schema = schema
        self._identity = identity
        self._settled = settled  #: told of each job that this runner no longer answers for
        self._expects_more = expects_more  #: jobs run that give way, so that outcomes may gather
        self._outcomes: list[Outcome] = []
        self._writing: list[Outcome] = []
        self._aside: list[Outcome] = []  #: refused for a reason that is not in them
        self._again_at = 0.0
        self._careful = False  #: a row may be locked, by a transaction that would hold up all of its batch
        self._gathered = anyio.Event()
        self._empty = anyio.Event()

    def add(self, outcome: Outcome) -> None:
        """An attempt came to this."""
        self._outcomes.append(outcome)
        self._gathered.set()

    async def flush(self) -> None:
        """Wait until everything is written."""
        while self._outcomes or self._writing:
            await self._empty.wait()

    @property
    def unwritten(self) -> int:
        """How many outcomes the database does not have yet."""
        return len(self._outcomes) + len(self._writing) + len(self._aside)

    def ids(self) -> set[int]:
        """The jobs whose outcomes the database does not have yet."""
        return {outcome.job.id for outcome in (*self._writing, *self._outcomes, *self._aside)}

    async def run(self) -> None:
        """Write, for ever."""
        patience = Patience("the completer")
        while True:
            try:
                async with link(self._source, self._schema, answer=patience.answer) as session:
                    await self._write_over(session, patience)
            except Exception as error:
                self._careful = self._careful or isinstance(error, TimeoutError)
                await patience.wait_after(error)

    async def write_once(self) -> None:
        """Write what is unwritten, once, over a connection opened for it, for the jobs of an incarnation that is over."""
        incarnation, outcomes = self._identity.latest, [*self._writing, *self._outcomes, *self._aside]
        if incarnation is not None and outcomes:
            async with link(self._source, self._schema) as session:
                for first in range(0, len(outcomes), A_BATCH):
                    await self._write(session, incarnation, outcomes[first : first + A_BATCH])
        self._writing, self._outcomes, self._aside = [], [], []
        self._empty.set()

    async def _write_over(self, session: Session, patience: Patience) -> None:
        while True:
            if not self._writing:
                await self._gather()
            incarnation = await self._identity.known()
            if self._careful:
                await self._put_locked_aside(session, patience)
            await self._write(session, incarnation, self._writing)
            self._writing = []
            patience.succeeded()
            if not self._outcomes:
                self._empty.set()
                self._empty = anyio.Event()

    async def _gather(self) -> None:
        while not self._outcomes or (self._aside and time.monotonic() >= self._again_at):
            if self._aside and time.monotonic() >= self._again_at:
                self._outcomes[:0] = self._aside
                self._aside = []
                self._careful = True
                break
            self._gathered = anyio.Event()
            with anyio.move_on_after(self._again_at - time.monotonic() if self._aside else None):
                await self._gathered.wait()
        if self._expects_more() and len(self._outcomes) < A_BATCH:
            await anyio.sleep(GATHER)
        self._writing = self._outcomes[:A_BATCH]
        del self._outcomes[:A_BATCH]

    async def _put_locked_aside(self, session: Session, patience: Patience) -> None:
        """Somebody's open transaction may hold the row of one job for as long as it likes; the others are written."""
        locked = await find_locked(session, (outcome.job.id for outcome in self._writing))
        self._careful = False
        if locked:
            patience.excuse()
            if not self._aside:
                logger.warning(
                    "jobs %s are locked by a transaction of somebody else's, and are finished when it ends",
                    sorted(locked),
                )
            self._again_at = time.monotonic() + AGAIN_AFTER
            self._aside += [outcome for outcome in self._writing if outcome.job.id in locked]
            self._writing = [outcome for outcome in self._writing if outcome.job.id not in locked]

    async def _write(self, session: Session, incarnation: int, outcomes: Sequence[Outcome]) -> None:
        finished = [outcome for outcome in outcomes if isinstance(outcome, Finished)]
        returned = [outcome for outcome in outcomes if isinstance(outcome, Returned)]
        try:
            written: set[int] = set()
            if finished:
                written |= await finish_jobs(session, incarnation, finished)
            if returned:
                written |= await return_jobs(session, incarnation, returned)
        except Exception as error:
            if is_transient(error) or sqlstate(error) is None:  # not the statement's fault
                raise
            await self._write_singly(session, incarnation, outcomes, error)
            return
        refused = [outcome for outcome in outcomes if outcome.job.id not in written]
        again = await self._look_into(session, incarnation, refused) if refused else set()
        for outcome in outcomes:
            if outcome.job.id not in again:
                self._settled(outcome.job)

    async def _write_singly(
        self, session: Session, incarnation: int, outcomes: Sequence[Outcome], error: Exception
    ) -> None:
        """One outcome Postgres refuses to store must not hold up the others: alone, it is stored without what is refused,
        or later, when the reason is not in it.
        """
        if len(outcomes) > 1:
            for outcome in outcomes:
                await self._write(session, incarnation, [outcome])
            return
        (outcome,) = outcomes
        discreet(error)
        if is_bad_data(error) and not _is_plain(outcome):
            logger.error("what job %s came to cannot be stored as it is: %s", outcome.job.id, error)
            await self._write(session, incarnation, [_plainer(outcome, error)])
            return
        if not self._aside:
            logger.error("what job %s came to is refused, and is tried again: %s", outcome.job.id, error)
            self._again_at = time.monotonic() + AGAIN_AFTER
        self._aside.append(outcome)

    async def _look_into(self, session: Session, incarnation: int, refused: Sequence[Outcome]) -> set[int]:
        """Refused: written already, when the reply was lost; else taken from this runner. Which are to be written again."""
        claims = {outcome.job.id: Claim(outcome.job.id, outcome.job.token) for outcome in refused}
        done = await find_finished(session, incarnation, claims.values())
        lost = sorted(claims.keys() - done)
        if not lost:
            return set()
        if self._identity.current != incarnation:  # succeeded meanwhile: they are the new incarnation's
            self._outcomes[:0] = [outcome for outcome in refused if outcome.job.id in lost]
            return set(lost)
        # One that is gone without a trace, or was settled by a transaction of its own, was most likely written already.
        unsure = {each.job.id for each in refused if each.is_in_doubt or _keeps_nothing(each)}
        taken = [job_id for job_id in lost if job_id not in unsure]
        if taken:
            logger.warning("jobs %s were taken from this runner before it could say what came of them", taken)
        return set()


def _keeps_nothing(outcome: Outcome) -> bool:
    return isinstance(outcome, Finished) and outcome.kept is Kept.NOTHING


_PLAIN = "it could not be stored: "


def _is_plain(outcome: Outcome) -> bool:
    """Nothing is left in it to leave out: where that is refused as well, the reason is not in it."""
    return f'"error":"{_PLAIN}' in (outcome.error or "")


def _plainer(outcome: Outcome, error: Exception) -> Outcome:
    """*outcome*, without what Postgres refused to store."""
    reason = f"{_PLAIN}{type(error).__name__}: {error}"
    note = orjson.dumps({"attempt": outcome.job.attempt, "error": reason}).decode()
    if isinstance(outcome, Returned):
        return attrs.evolve(outcome, error=note)
    if outcome.result is not None:
        return attrs.evolve(outcome, result=None, result_error=reason)
    return attrs.evolve(outcome, error=note, result_error=None)
