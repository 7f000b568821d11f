"""Background jobs on the Postgres your application already has.

A service object runs now or later; the job commits or rolls back with your data, and runs inside the web process.
"""

from asyncjobs._app import Jobs
from asyncjobs._bus.events import current_event, in_context
from asyncjobs._bus.local import publishing
from asyncjobs._bus.publisher import Published
from asyncjobs._bus.subscribing import subscribe
from asyncjobs._define.definition import job
from asyncjobs._define.dependency import SUPPLIED, Dependency
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._define.handle import Handle
from asyncjobs._define.later import Later
from asyncjobs._define.schedules import Cron, Every
from asyncjobs._engine.context import CurrentJob, current_job
from asyncjobs._enqueue.carried import Carried, carry, current_locale, current_timezone
from asyncjobs._enqueue.options import LaterOptions
from asyncjobs._guard.blocked import Blocked
from asyncjobs._guard.guard import Guard
from asyncjobs._model.backoff import Backoff, Constant, Exponential
from asyncjobs._model.events import Event, Is
from asyncjobs._model.job import AttemptError, Job, NewJob
from asyncjobs._model.limits import QueueLimit, Rate
from asyncjobs._model.lock import Lock
from asyncjobs._model.options import JobOptions
from asyncjobs._model.queues import QueueRegistry, queues
from asyncjobs._model.schedule import TICK, Schedule
from asyncjobs._model.states import JobState
from asyncjobs._model.stats import HeldJob, JobStats
from asyncjobs._model.unique import Unique
from asyncjobs._model.verbs import (
    Cancel,
    Discard,
    Fail,
    Finish,
    Missing,
    Requeue,
    Retry,
    Skip,
    Snooze,
    Verb,
)
from asyncjobs._store.bus import Subscribed
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
    JobNotPublished,
    JobsError,
    JobSkipped,
    JobUnsuccessful,
    LeaseLost,
    MisusedJobs,
    RemoteTraceback,
    ResultNotStored,
    ScheduleExists,
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

__all__ = [  # noqa: RUF022 -- as `sorted` sorts
    "AlreadyCompleted",
    "AttemptError",
    "Backoff",
    "Blocked",
    "Cancel",
    "Carried",
    "Connection",
    "Constant",
    "Cron",
    "CurrentJob",
    "DatabaseUnavailable",
    "Dependency",
    "Discard",
    "DuplicateJob",
    "Event",
    "Every",
    "Exponential",
    "Fail",
    "Finish",
    "Guard",
    "Handle",
    "HeldJob",
    "InvalidDefinition",
    "InvalidInput",
    "InvalidOption",
    "Is",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobNotFound",
    "JobNotPublished",
    "JobOptions",
    "JobSkipped",
    "JobState",
    "JobStats",
    "JobUnsuccessful",
    "Jobs",
    "JobsError",
    "Later",
    "LaterOptions",
    "LeaseLost",
    "Lock",
    "Missing",
    "MisusedJobs",
    "NewJob",
    "Prepared",
    "Published",
    "QueueLimit",
    "QueueRegistry",
    "Rate",
    "RemoteTraceback",
    "Requeue",
    "ResultNotStored",
    "Retry",
    "SUPPLIED",
    "Schedule",
    "ScheduleExists",
    "ScheduleNotFound",
    "SchemaMismatch",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
    "Skip",
    "Snooze",
    "Subscribed",
    "TICK",
    "UndecodableInput",
    "Unique",
    "UnknownKind",
    "Verb",
    "WhichJobs",
    "WrongConnection",
    "carry",
    "current_event",
    "current_job",
    "current_locale",
    "current_timezone",
    "in_context",
    "job",
    "publishing",
    "queues",
    "subscribe",
]
