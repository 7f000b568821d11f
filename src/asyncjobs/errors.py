"""Everything asyncjobs raises, as one tree. Each error carries its own sentence and says what to do.

::

    JobsError
    ├── InvalidDefinition   a job class, function or method asyncjobs cannot run     (TypeError)
    ├── InvalidOption       an option of a job that makes no sense                   (ValueError)
    │   └── ScheduleExists  a schedule was to be created under a name that is taken
    ├── InvalidInput        inputs or a result that cannot be stored faithfully      (ValueError)
    ├── UndecodableInput    stored inputs that do not fit this checkout's code       (ValueError)
    ├── UnknownKind         a kind nobody has defined in this process                (LookupError)
    ├── WrongConnection     a connection a job cannot be enqueued on                 (RuntimeError)
    ├── WhichJobs           no Jobs, or more than one, could be meant                (RuntimeError)
    ├── MisusedJobs         a Jobs opened twice, on a second loop, after a fork      (RuntimeError)
    ├── DatabaseUnavailable Postgres cannot be reached                               (ConnectionError)
    ├── SchemaMismatch      the database's schema is not the one this code needs     (RuntimeError)
    │   ├── SchemaMissing
    │   ├── SchemaTooOld
    │   └── SchemaTooNew
    ├── JobNotFound         no job has this id, or its transaction has not committed (LookupError)
    ├── ScheduleNotFound    no schedule has this name                                (LookupError)
    ├── JobUnsuccessful     what `Handle.result` raises for a job without a result   (RuntimeError)
    │   ├── JobFailed
    │   ├── JobCancelled
    │   └── JobSkipped
    ├── ResultNotStored     the job completed, but its result could not be kept      (ValueError)
    ├── JobNotPublished     a job wants the event it is about, and there is none     (LookupError)
    ├── DuplicateJob        a job was to be rejected because one like it exists      (ValueError)
    ├── LeaseLost           this runner no longer holds the job                      (RuntimeError)
    └── AlreadyCompleted    a job was completed a second time                        (RuntimeError)
"""

from __future__ import annotations

from typing import Any, TypeVar

E = TypeVar("E", bound="JobsError")


class JobsError(Exception):
    """The root of the tree."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process pools as they are: made again without their `__init__`, which writes the sentence."""
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(cls: type[E], args: tuple[Any, ...], kept: dict[str, Any]) -> E:
    error = cls.__new__(cls, *args)
    error.__dict__.update(kept)
    return error


class InvalidDefinition(JobsError, TypeError):
    """A class, function or method that cannot be a job; raised where it is defined."""


class InvalidOption(JobsError, ValueError):
    """An option that makes no sense: a negative delay, a naive datetime, an unknown word."""


class ScheduleExists(InvalidOption):
    """A schedule was not stored, because there is one of its name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a schedule {name!r:.160} already; give another name=, or say replace=True, which changes any but those "
            "that code declares"
        )
        self.name = name


class InvalidInput(JobsError, ValueError):
    """An input that cannot be stored faithfully; raised in the caller of `later`."""


class UndecodableInput(JobsError, ValueError):
    """Stored inputs do not fit the definition of this checkout."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "input does not fit",
        input_name: str | None = None,
        discreet: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason  #: in two or three words, the same for all that fail alike
        self.discreet = discreet or message  #: what may be said where stored inputs must not be seen
        self.input = input_name  #: the one that does not fit, where it is one


class UnknownKind(JobsError, LookupError):
    """No job of this kind is defined in this process."""


class WrongConnection(JobsError, RuntimeError):
    """A job cannot be enqueued on this connection: closed, foreign, failed or in AUTOCOMMIT."""


class WhichJobs(JobsError, RuntimeError):
    """No Jobs could be meant, or more than one."""


class MisusedJobs(JobsError, RuntimeError):
    """A Jobs was opened twice, on a second event loop, or after a fork."""


class DatabaseUnavailable(JobsError, ConnectionError):
    """Postgres cannot be reached with the parameters given."""


class SchemaMismatch(JobsError, RuntimeError):
    """The schema in the database is not the one this version of asyncjobs needs."""


class SchemaMissing(SchemaMismatch):
    """The database has no asyncjobs schema."""

    def __init__(self, schema: str) -> None:
        super().__init__(
            f"this database has no schema {schema!r} of asyncjobs; run `python -m asyncjobs migrate` "
            "or `await jobs.migrate()` once, or pass schema= if it has another name"
        )


class SchemaTooOld(SchemaMismatch):
    """The code is newer than the schema: migrate."""

    def __init__(self, schema: str, found: int, needed: int) -> None:
        super().__init__(
            f"schema {schema!r} is at version {found}, this asyncjobs needs {needed}; "
            "run `python -m asyncjobs migrate` or `await jobs.migrate()`"
        )


class SchemaTooNew(SchemaMismatch):
    """The schema is newer than the code can work with: upgrade asyncjobs."""

    def __init__(self, schema: str, found: int, known: int) -> None:
        super().__init__(
            f"schema {schema!r} is at version {found} and no longer serves this asyncjobs (version {known}); "
            "upgrade the asyncjobs-pg package in this process"
        )


class JobNotFound(JobsError, LookupError):
    """No job with this id can be seen."""

    def __init__(self, job_id: int) -> None:
        super().__init__(
            f"no job {job_id} can be seen: the transaction that enqueued it is still open or was rolled back, "
            "or the job finished, and nothing of it is kept, or it was pruned since"
        )
        self.job_id = job_id


class ScheduleNotFound(JobsError, LookupError):
    """No schedule has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no schedule {name!r:.160}; `jobs.schedules.list()` has them all")
        self.name = name


class JobUnsuccessful(JobsError, RuntimeError):
    """The job is final and has no result."""

    def __init__(self, message: str, job_id: int) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobUnsuccessful):
    """No attempts are left; the remote traceback is the `__cause__`."""


class JobCancelled(JobUnsuccessful):
    """Somebody said stop."""


class JobSkipped(JobUnsuccessful):
    """There was nothing left to do: `needed()` said no, or what the job is about is gone."""


class RemoteTraceback(Exception):
    """The traceback of a failed attempt, as text, from the process that ran it."""


class ResultNotStored(JobsError, ValueError):
    """The job completed, but what it returned could not be stored."""


class JobNotPublished(JobsError, LookupError):
    """A job asks for the event it is about, and was not published."""


class DuplicateJob(JobsError, ValueError):
    """A job was not stored, because one with its unique key exists and it was to be rejected then."""

    def __init__(self, job_id: int, kind: str) -> None:
        super().__init__(
            f"job {job_id} has the unique key of this {kind}, which was not stored; the transaction goes on. Leave "
            "on_conflict='reject' out to be given that one's handle instead"
        )
        self.job_id = job_id


class LeaseLost(JobsError, RuntimeError):
    """This runner no longer holds the job: another may run it, so nothing may be written for it."""

    def __init__(self, job_id: int) -> None:
        super().__init__(
            f"job {job_id} was taken from this runner; what it wrote in this transaction is rolled back"
        )
        self.job_id = job_id


class AlreadyCompleted(JobsError, RuntimeError):
    """A job completes once."""

    def __init__(self, job_id: int) -> None:
        super().__init__(
            f"job {job_id} was already completed by this attempt; complete it once, as the last statement"
        )
        self.job_id = job_id
