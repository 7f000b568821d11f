"""Supply what jobs depend on: `Jobs(…, provide={Mailer: make_mailer})`, made anew for each job that asks for it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from asyncjobs.errors import InvalidDefinition

Provide = Mapping[Any, Callable[[], Any]]
"""A type, and what makes one: a function, an async function, or one that returns a (sync or async) context manager.

What a function returns that is of the type already is taken as it is, and not closed, for it may be shared; a session of a
SQLAlchemy sessionmaker is closed.
"""


@asynccontextmanager
async def supplied(provide: Provide, wanted: Iterable[Any]) -> AsyncIterator[Mapping[Any, Any]]:
    """What *wanted* names, for one job; context managers are left when it ends."""
    async with AsyncExitStack() as stack:
        made: dict[Any, Any] = {}
        for kind in wanted:
            if kind not in provide:
                raise InvalidDefinition(missing(kind))
            value = provide[kind]()
            if inspect.isawaitable(value):
                value = await value
            if not isinstance(kind, type) or not isinstance(value, kind) or _makes_sessions(provide[kind]):
                if hasattr(type(value), "__aenter__"):
                    value = await stack.enter_async_context(value)
                elif hasattr(type(value), "__enter__"):
                    value = stack.enter_context(value)
            made[kind] = value
        yield made


def _makes_sessions(make: Any) -> bool:
    """Whether *make* is a SQLAlchemy sessionmaker, whose sessions are nobody else's to close."""
    sqlalchemy = sys.modules.get("sqlalchemy.ext.asyncio")
    return sqlalchemy is not None and isinstance(make, sqlalchemy.async_sessionmaker)


def missing(kind: Any) -> str:
    """What to say of a dependency nobody provides."""
    name = getattr(kind, "__qualname__", repr(kind))
    return f"nothing provides {name}; give Jobs(…, provide={{{name}: make_it}})"
