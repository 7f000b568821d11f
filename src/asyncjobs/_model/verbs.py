"""What a job may say instead of returning: raised, or returned."""

from __future__ import annotations

from asyncjobs._model.durations import Duration, seconds


class Verb(Exception):
    """Something a job says of itself."""


class Snooze(Verb):
    """Run me again after *delay* (a timedelta or seconds); this attempt does not count."""

    def __init__(self, delay: Duration) -> None:
        self.delay: float = seconds(delay, "delay")
        super().__init__(f"snoozed for {self.delay:g} s")


class Cancel(Verb):
    """Do not run me again: the job ends as cancelled, for *reason*."""

    def __init__(self, reason: str = "cancelled by itself") -> None:
        self.reason = reason
        super().__init__(reason)
