"""What a Jobs was given, checked."""

from __future__ import annotations

from typing import Any

from asyncjobs._guard.guard import Guard
from asyncjobs._store.opening import Connect
from asyncjobs._store.source import DsnSource, EngineSource, PoolSource, Source
from asyncjobs.errors import InvalidOption


def checked_guard(guard: object) -> Guard | None:
    if guard is None or isinstance(guard, Guard):
        return guard
    raise InvalidOption(f"guard={guard!r} is no guard; pass Guard(lag=…, blocked=…), or None to have none")


def source_of(
    dsn: str | None, pool: Any, engine: Any, connect: Connect | None, *, pooled: bool | None
) -> Source:
    given = [
        name for name, value in (("a DSN", dsn), ("pool=", pool), ("engine=", engine)) if value is not None
    ]
    if len(given) != 1:
        raise InvalidOption(
            f"Jobs takes one of a DSN, pool= and engine=; it got {' and '.join(given) or 'none'}"
        )
    if dsn is not None:
        return DsnSource(dsn, connect, pooled=pooled)
    if pool is not None:
        return PoolSource(pool, connect, pooled=pooled)
    return EngineSource(engine, connect, pooled=pooled)
