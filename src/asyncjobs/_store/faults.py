"""What went wrong in Postgres, by SQLSTATE, whichever driver reports it."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg

# Class 08: connection; 57P: the server stops or starts; 53: out of resources (connections, disk, memory);
# 25006: the server became read-only (a demoted primary); 40: serialisation and deadlock, gone on the next try.
_TRANSIENT = ("08", "57P", "53", "25006", "40")
_NO_SCHEMA = ("42P01", "3F000", "42883", "42703")


def sqlstate(error: BaseException | None) -> str | None:
    """The SQLSTATE behind *error*: asyncpg's, psycopg's, or the one SQLAlchemy wrapped."""
    for each in _behind(error):
        found = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if isinstance(found, str):
            return found
    return None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """*error*, and what the driver raised where SQLAlchemy or we wrapped it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "orig", None) or error.__cause__


def discreet(error: Exception) -> Exception:
    """*error* without its detail: Postgres quotes there the row it refuses, with the inputs of a job."""
    for each in _behind(error):
        if isinstance(each, asyncpg.PostgresError):
            each.detail = None
    return error


def is_taken(error: BaseException) -> bool:
    """Somebody else has just taken what must be unique."""
    return sqlstate(error) == "23505"


def is_transient(error: BaseException) -> bool:
    """The server or the way to it failed, not the statement: trying again later is right."""
    state = sqlstate(error)
    return state.startswith(_TRANSIENT) if state is not None else is_lost(error)


def is_lost(error: BaseException) -> bool:
    """The connection broke or never came: whether a statement sent over it was done is not known."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(("08", "57P"))
    return any(map(_is_of_the_way, _behind(error)))


def _is_of_the_way(error: BaseException) -> bool:
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # those are values asyncpg itself refuses
    # psycopg and SQLAlchemy are recognised by name, for who has not imported them cannot raise these.
    library = type(error).__module__.partition(".")[0]
    return (
        # The last: a statement between a terminated backend's last word and the end of its connection.
        isinstance(error, OSError | asyncpg.InternalClientError)
        or (library == "psycopg" and any(base.__name__ == "OperationalError" for base in type(error).__mro__))
        or (library == "sqlalchemy" and type(error).__name__ == "TimeoutError")
    )


def is_rolled_back(error: BaseException) -> bool:
    """Postgres undid the transaction in favour of another: nothing was done, and the next try may succeed."""
    state = sqlstate(error)
    return state is not None and state.startswith("40") and state != "40003"  # there completion is unknown


def is_cancelled(error: BaseException) -> bool:
    """Somebody cancelled the statement, or a timeout of the server's did: nothing was done."""
    return sqlstate(error) == "57014"


def is_lock_timeout(error: BaseException) -> bool:
    """A lock was not to be had within `lock_timeout`: nothing was done."""
    return sqlstate(error) == "55P03"


def is_missing_schema(error: BaseException) -> bool:
    """A table, column or function of ours is not there."""
    return sqlstate(error) in _NO_SCHEMA


def is_read_only(error: BaseException) -> bool:
    """The server takes no writes: a standby, or a primary that was demoted."""
    return sqlstate(error) == "25006"


def is_failed_transaction(error: BaseException) -> bool:
    """An earlier error has aborted the transaction."""
    return sqlstate(error) == "25P02"


def is_bad_data(error: BaseException) -> bool:
    """Postgres refuses a value (class 22, or a value too large): the same statement will fail again."""
    state = sqlstate(error)
    return state is not None and (state.startswith("22") or state in ("54000", "23514"))
