"""What other systems call what has another name here, so that an error can say ours to who types theirs."""

from __future__ import annotations

_LATER = "write `await ….later(…)`"
_ONE_CALL = "of one call, say `.set({0}=…).later(…)` or `later(…, {0}=…)`"
_DELAY, _AT = _ONE_CALL.format("delay"), _ONE_CALL.format("at")
_COUNTS = "say max_attempts=, which counts the first one, too"
_BACKOFF = "say backoff=Exponential(first=…, longest=…)"
_CURRENT = "the job that runs is current_job()"
_WHATEVER = (
    "whatever a job raises is tried again; raise Fail(…), or answer it from on_error, where it should not be"
)
_NEEDED = "a method needed() is asked before the job runs"
_LIMIT = "say it of its queue, over all processes: `await jobs.limit(queue, rate=Rate(…))`"
_ALWAYS = "a job is done when what came of it is stored, and never before: leave it out"

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
    "rate": _LIMIT,
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
}
"""Options of jobs, by their names in Celery, Sidekiq, procrastinate or arq."""
