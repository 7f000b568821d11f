"""The hosts of a DSN that names several: a primary and those that may become it.

asyncpg tries them one after the other within one time limit, so that a host which is gone without a word uses up all of it.
Here each is tried with a head start, the one that answered last before the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

HEAD_START = 0.5  #: seconds one host has before the next is tried beside it


class Host(NamedTuple):
    """One of several."""

    name: str
    port: str | None


Dial = Callable[[Host], Awaitable[Any]]


def hosts_of(dsn: str) -> list[Host]:
    """Every host *dsn* names, in its order."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    named = parts.netloc.rpartition("@")[2]
    if named:
        return [_host(unquote(each)) for each in named.split(",")]
    names = query.get("host", [""])[-1].split(",")
    ports = query.get("port", [""])[-1].split(",")
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        return []  # asyncpg says what is wrong with it
    return [Host(name, port or None) for name, port in zip(names, ports, strict=True) if name]


def _host(text: str) -> Host:
    name, bracket, rest = text.rpartition("]")
    if bracket:  # an IPv6 address
        return Host(name.removeprefix("["), rest.removeprefix(":") or None)
    name, _, port = text.partition(":")
    return Host(name, port or None)


def says_which(dsn: str) -> bool:
    """Whether *dsn* says itself which of its hosts will do."""
    return "target_session_attrs" in parse_qs(urlsplit(dsn).query)


class Hosts:
    """Those of one DSN."""

    def __init__(self, dsn: str) -> None:
        self._hosts = hosts_of(dsn)

    def __bool__(self) -> bool:
        return len(self._hosts) > 1

    async def connect(self, dial: Dial) -> Any:
        """What *dial* opens to the first host that will do. Raises what says most about why none does."""
        waiting = list(self._hosts)
        dialling: dict[asyncio.Task[Any], Host] = {}
        errors: list[BaseException] = []
        chosen: Any = None
        try:
            while chosen is None and (waiting or dialling):
                if waiting:
                    host = waiting.pop(0)
                    dialling[asyncio.ensure_future(dial(host))] = host
                done, _ = await asyncio.wait(
                    dialling, timeout=HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    host = dialling[task]
                    if chosen is not None:
                        continue  # it will be hung up on below
                    del dialling[task]
                    error = task.exception()
                    if error is None:
                        chosen = task.result()
                        self._prefer(host)
                    else:
                        errors.append(error)
        finally:
            for task in dialling:
                task.cancel()
                task.add_done_callback(_hang_up)
        if chosen is None:
            raise _most_telling(errors)
        return chosen

    def _prefer(self, host: Host) -> None:
        self._hosts = sorted(self._hosts, key=lambda each: each != host)  # in one step: threads look on


def _hang_up(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _most_telling(errors: list[BaseException]) -> BaseException:
    """A server's own words (a wrong password) before "not this one", and both before silence."""

    def tells(error: BaseException) -> int:
        if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
            return 1
        return 0 if isinstance(error, OSError) else 2

    return max(errors, key=tells)
