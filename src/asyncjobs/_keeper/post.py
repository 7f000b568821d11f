"""What the keeper tells the rest of the runner, and what it asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asyncjobs._store.claims import Claim


class Post(Protocol):
    """The runner, as the keeper sees it. Called on the keeper's loop; quick, and never raising."""

    def ready(self, queue: str) -> None:
        """A queue has jobs."""

    def finished(self, job_id: int) -> None:
        """A job somebody awaits is final."""

    def cancel(self, job_id: int) -> None:
        """Somebody asks to stop a job."""

    def queues_changed(self) -> None:
        """A queue was paused or resumed."""

    def held(self) -> Sequence[Claim]:
        """Every claim this runner answers for."""

    def lost(self, claims: Sequence[Claim]) -> None:
        """These are not this runner's any more: stop them, and write nothing for them."""

    def deaf(self, *, is_deaf: bool) -> None:
        """Whether notifications come through."""
