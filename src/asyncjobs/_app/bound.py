"""`jobs.on(session)`, entered."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from asyncjobs._enqueue import ambient
from asyncjobs._enqueue.enqueuer import Enqueuer

J = TypeVar("J", bound=Enqueuer)


class On(Generic[J]):
    """Within it, what is enqueued joins the transaction of one connection."""

    def __init__(self, jobs: J, connection: Any) -> None:
        self._jobs = jobs
        self._bound = ambient.bound(jobs, connection)

    def __enter__(self) -> J:
        self._bound.__enter__()
        return self._jobs

    def __exit__(self, *error: object) -> None:
        self._bound.__exit__(None, None, None)

    async def __aenter__(self) -> J:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()
