"""What other systems call what has another name here, so that an error can say ours to who types theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

_ONE_CALL = "of one call, say `.set({0}=…).later(…)` or `later(…, {0}=…)`"
_DELAY, _AT = _ONE_CALL.format("delay"), _ONE_CALL.format("at")
_COUNTS = "say max_attempts=, which counts the first one, too"
_BACKOFF = "say backoff=Exponential(first=…, longest=…)"
_CURRENT = "the job that runs is current_job()"
_WHATEVER = (
    "whatever a job raises is tried again; raise Fail(…), or answer it from on_error, where it should not be"
)
_NEEDED = "a method needed() is asked before the job runs"
_LIMIT = "say rate=Rate(…), over all processes; or of its queue, `await jobs.limit(queue, rate=Rate(…))`"
_ALWAYS = "a job is done when what came of it is stored, and never before: leave it out"
_NOW = 'say run="now"'
_INPUTS = "inputs are the arguments of later itself, or the object's fields"

OPTIONS = {
    "countdown": _DELAY,
    "defer_by": _DELAY,
    "_defer_by": _DELAY,
    "schedule_in": _DELAY,
    "wait": _DELAY,
    "eta": _AT,
    "run_at": _AT,
    "defer_until": _AT,
    "_defer_until": _AT,
    "schedule_at": _AT,
    "scheduled_at": _AT,
    "connection": "say on=, the connection whose transaction the job joins",
    "max_retries": _COUNTS,
    "max_tries": _COUNTS,
    "retries": _COUNTS,
    "retry": _COUNTS,
    "default_retry_delay": "say backoff=, in seconds",
    "retry_backoff": _BACKOFF,
    "retry_backoff_max": _BACKOFF,
    "retry_jitter": _BACKOFF,
    "autoretry_for": _WHATEVER,
    "dont_autoretry_for": _WHATEVER,
    "retry_exceptions": _WHATEVER,
    "throws": _WHATEVER,
    "time_limit": "say timeout=",
    "soft_time_limit": "say timeout=",
    "rate_limit": _LIMIT,
    "concurrency": "say lock=Lock(…, slots=…), or of its queue: `await jobs.limit(queue, concurrency=…)`",
    "queueing_lock": "say unique=",
    "unique_for": "say unique=Unique(…, window=…)",
    "job_id": "say unique=Unique(key=…)",
    "_job_id": "say unique=Unique(key=…)",
    "task_id": "say unique=Unique(key=…)",
    "name": "say kind=",
    "bind": _CURRENT,
    "pass_context": _CURRENT,
    "acks_late": _ALWAYS,
    "reject_on_worker_lost": _ALWAYS,
    "ignore_result": 'return nothing, or say keep="nothing"',
    "keep_result": 'say keep=, "row" or "nothing"; how long, `Jobs(keep=…)` says',
    "expires": _NEEDED,
    "_expires": _NEEDED,
    "args": _INPUTS,
    "kwargs": _INPUTS,
    "inputs": _INPUTS,
    "job_options": "options are keywords of later, or of .set(…)",
    "queue_name": "say queue=",
    "full_queue": "say queue=, and app=None",
    "application": "say app=",
    "queue_namespace": "say app=",
    "queue_lock": "say unique=",
    "queue_lock_key": "say unique=",
    "worker_lock": "say lock=",
    "worker_lock_key": "say lock=",
    "lock_namespace": "say lock=Lock(…, namespace=…), or unique=Unique(…, namespace=…)",
    "maximum_retry_count": _COUNTS,
    "retry_interval": "say backoff=, in seconds or as a function of the attempt",
    "max_run_time": "say timeout=",
    "destroy_failed_jobs": 'say keep_failed="nothing"',
    "run_synchronously": _NOW,
    "synchronous": _NOW,
}
"""Options of jobs, by their names in Celery, Sidekiq, procrastinate, arq, delayed_job, Que or TResque."""

_LATER = "write `await ….later(…)`, or `….later_sync(…)` in sync code"
_SET = "write `await ….set(delay=…).later(…)`"
_PREPARE = "write `….prepare(…)`, for `jobs.enqueue_many` or a schedule"

OF_A_JOB = {
    "delay": _LATER,
    "defer": _LATER,
    "defer_async": _LATER,
    "enqueue": _LATER,
    "perform_async": _LATER,
    "perform_later": _LATER,
    "send": _LATER,
    "kiq": _LATER,
    "apply_async": _SET,
    "configure": _SET,
    "perform_in": _SET,
    "perform_at": _SET,
    "s": _PREPARE,
    "si": _PREPARE,
    "signature": _PREPARE,
    "retry": "inside the job, `raise Retry(seconds)`",
}
"""What is called on a task, there."""

_STATUS = "write `await handle.status()`"

OF_A_HANDLE = {
    "get": "write `await handle.result(timeout=…)`",
    "wait": "write `await handle.result(timeout=…)`",
    "state": _STATUS,
    "ready": _STATUS,
    "successful": _STATUS,
    "failed": _STATUS,
    "info": "write `await handle.job()`",
    "result_info": "write `await handle.job()`",
    "revoke": "write `await handle.cancel()`",
    "abort": "write `await handle.cancel()`",
    "retry": "write `await jobs.retry(handle.id)`",
}
"""What is called on a result, or on a job, there."""

_DECORATE = "a job belongs to no Jobs: decorate it with `asyncjobs.job`"
_ENQUEUE = "what is to run enqueues itself: `await send.later(42)`, or many at once by `jobs.enqueue_many`"
_RUNNING = "enter `async with jobs.running():`, or give the web application `lifespan=jobs.lifespan`"

OF_JOBS = {
    "task": _DECORATE,
    "job": _DECORATE,
    "periodic": "repeat by `Jobs(schedules=[Cron(…)])`",
    "cron": "repeat by `Jobs(schedules=[Cron(…)])`",
    "enqueue": _ENQUEUE,
    "enqueue_job": _ENQUEUE,
    "send_task": _ENQUEUE,
    "run_worker": _RUNNING,
    "run_worker_async": _RUNNING,
    "worker": _RUNNING,
    "start": _RUNNING,
    "open": _RUNNING,
    "open_async": _RUNNING,
    "status": "write `await jobs.handle(id).status()`",
    "result": "write `await jobs.handle(id).result(timeout=…)`",
    "AsyncResult": "write `jobs.handle(id)`",
    "publish_at": "write `await jobs.publish(…, at=…)`",
    "workoff": "write `await jobs.work_off()`, inside `async with jobs.running():`",
}
"""What is called on an application, or a connection, there."""


class SaysOurs:
    """Who calls it by another system's name hears ours."""

    __slots__ = ()

    _elsewhere: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # a checker shall find the typo

        def __getattr__(self, name: str) -> Any:
            hint = type(self)._elsewhere.get(name)
            if hint is None:
                return object.__getattribute__(self, name)  # raises, as ever
            raise AttributeError(f"{type(self).__name__!r} has no {name!r}; {hint}", name=name, obj=self)
