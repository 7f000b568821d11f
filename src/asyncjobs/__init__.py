"""Background jobs on the Postgres your application already has.

A service object runs now or later; the job commits or rolls back with your data, and runs inside the web process.
"""

from asyncjobs._app import Jobs
from asyncjobs._define.definition import job
from asyncjobs._define.dependency import Dependency
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._define.handle import Handle
from asyncjobs._define.schedules import Cron, Every
from asyncjobs._define.service import Later
from asyncjobs._engine.context import CurrentJob, current_job
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._guard.blocked import Blocked
from asyncjobs._guard.guard import Guard
from asyncjobs._model.backoff import Backoff, Constant, Exponential
from asyncjobs._model.job import AttemptError, Job
from asyncjobs._model.lock import Lock
from asyncjobs._model.options import JobOptions
from asyncjobs._model.schedule import TICK, Schedule
from asyncjobs._model.states import JobState
from asyncjobs._model.unique import Unique
from asyncjobs._model.verbs import Cancel, Snooze
from asyncjobs._store.connection import Connection
from asyncjobs.errors import (
    AlreadyCompleted,
    DatabaseUnavailable,
    DuplicateJob,
    InvalidDefinition,
    InvalidInput,
    InvalidOption,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobsError,
    JobSkipped,
    JobUnsuccessful,
    LeaseLost,
    MisusedJobs,
    RemoteTraceback,
    ResultNotStored,
    ScheduleNotFound,
    SchemaMismatch,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    UndecodableInput,
    UnknownKind,
    WhichJobs,
    WrongConnection,
)

__all__ = [
    "TICK",
    "AlreadyCompleted",
    "AttemptError",
    "Backoff",
    "Blocked",
    "Cancel",
    "Connection",
    "Constant",
    "Cron",
    "CurrentJob",
    "DatabaseUnavailable",
    "Dependency",
    "Every",
    "DuplicateJob",
    "Exponential",
    "Guard",
    "Handle",
    "InvalidDefinition",
    "InvalidInput",
    "InvalidOption",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobNotFound",
    "JobOptions",
    "JobSkipped",
    "JobState",
    "JobUnsuccessful",
    "Jobs",
    "JobsError",
    "Later",
    "LaterOptions",
    "LeaseLost",
    "Lock",
    "MisusedJobs",
    "Prepared",
    "RemoteTraceback",
    "ResultNotStored",
    "Schedule",
    "ScheduleNotFound",
    "SchemaMismatch",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
    "Snooze",
    "UndecodableInput",
    "Unique",
    "UnknownKind",
    "WhichJobs",
    "WrongConnection",
    "current_job",
    "job",
]
