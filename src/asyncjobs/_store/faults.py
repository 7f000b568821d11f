"""What went wrong in Postgres, by SQLSTATE, whichever driver reports it."""

from __future__ import annotations

import asyncpg

# Class 08: connection; 57P: the server stops or starts; 53: out of resources (connections, disk, memory);
# 25006: the server became read-only (a demoted primary); 40: serialisation and deadlock, gone on the next try.
_TRANSIENT = ("08", "57P", "53", "25006", "40")
_NO_SCHEMA = ("42P01", "3F000", "42883", "42703")


def sqlstate(error: BaseException | None) -> str | None:
    """The SQLSTATE behind *error*: asyncpg's, psycopg's, or the one SQLAlchemy wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        found = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if isinstance(found, str):
            return found
        error = getattr(error, "orig", None) or error.__cause__
    return None


def is_transient(error: BaseException) -> bool:
    """The server or the way to it failed, not the statement: trying again later is right."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_TRANSIENT)
    return isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError))


def is_missing_schema(error: BaseException) -> bool:
    """A table, column or function of ours is not there."""
    return sqlstate(error) in _NO_SCHEMA


def is_failed_transaction(error: BaseException) -> bool:
    """An earlier error has aborted the transaction."""
    return sqlstate(error) == "25P02"


def is_bad_data(error: BaseException) -> bool:
    """Postgres refuses a value (class 22, or a value too large): the same statement will fail again."""
    state = sqlstate(error)
    return state is not None and (state.startswith("22") or state in ("54000", "23514"))
