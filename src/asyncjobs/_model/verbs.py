"""What a job may say of itself instead of returning a result: raised, from however deep, or returned."""

from __future__ import annotations

from typing import Any

from asyncjobs._model.durations import Duration, seconds


class Verb(Exception):
    """Something a job says of itself."""


def says_verb(value: Any) -> bool:
    """Whether what a job returned is a verb, or the class of one, as `return Discard`: it means what raising it does."""
    kind = type(value)  # not isinstance: it runs the value's own code
    return issubclass(kind, Verb) or (kind is type and issubclass(value, Verb))


def as_said(value: Any) -> Any:
    """*value*, or the verb that is meant where it is the class of one."""
    return value() if type(value) is type and issubclass(value, Verb) else value


def only_verb(error: BaseException) -> Verb | None:
    """The verb that is all there is to *error*, itself or in groups of errors; None where there is another thing or none."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Verb) else None


class Snooze(Verb):
    """Run me again after *delay* (a timedelta or seconds); this attempt does not count."""

    def __init__(self, delay: Duration) -> None:
        self.delay: float = seconds(delay, "delay")
        super().__init__(f"snoozed for {self.delay:g} s")


class Requeue(Snooze):
    """Run me again, behind those that wait by then: after *delay*, a second; this attempt does not count."""

    def __init__(self, delay: Duration = 1) -> None:
        super().__init__(delay)


class Retry(Verb):
    """This attempt failed; the next is due after *delay*, whatever the backoff says.

    Without a *reason*, what is kept as the attempt's error is what it was raised for: `raise Retry(60) from error`.
    """

    def __init__(self, delay: Duration, reason: str | None = None) -> None:
        self.delay: float = seconds(delay, "delay")
        self.reason = reason
        super().__init__(reason or f"to be tried again in {self.delay:g} s")


class Fail(Verb):
    """Do not run me again: the job failed, for *reason*, whatever attempts are left.

    Without one, what is kept as its error is what it was raised for.
    """

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason or "failed by its own word")


class Cancel(Verb):
    """Do not run me again: the job ends as cancelled, for *reason*."""

    def __init__(self, reason: str = "cancelled by itself") -> None:
        self.reason = reason
        super().__init__(reason)


class Skip(Verb):
    """There is nothing to do: the job ends as skipped, for *reason*."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        super().__init__(reason or "there was nothing left to do")


class Missing(Skip):
    """What the job is about is gone, so there is nothing to do: it ends as skipped, and *reason* says what is missing."""

    def __init__(self, reason: str = "its source is missing") -> None:
        super().__init__(reason)


class Discard(Verb):
    """Forget me: the job is deleted, and nothing of it is kept."""

    def __init__(self) -> None:
        super().__init__("discarded")


class Finish(Verb):
    """The job is completed, with *result*: what returning it would do, from however deep."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        super().__init__("finished early")
