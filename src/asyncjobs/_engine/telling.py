"""What is said of an error: in the log, and in the row of its job. Bounded, whatever the error does when it is asked."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import orjson

from asyncjobs._model.job import ClaimedJob
from asyncjobs.errors import UndecodableInput

logger = logging.getLogger("asyncjobs")

MOST_TRACEBACK = 8_000  #: characters of a traceback kept with the job: its end, where the error is
MOST_WORDS = 2_000  #: characters of what the error says
MOST_LOGGED = 100_000  #: characters of an error whose traceback is logged; it stands in there as it is


def log_error(level: int, error: BaseException, message: str, *args: Any, extra: Any = None) -> None:
    """Log with the traceback, if that can be had: it runs the error's own code, which may raise anything.

    Not that of an error which shows a job's inputs, nor of one that would fill the log.
    """
    if type(error) is UndecodableInput:
        message += ": its stored inputs do not fit the definition here; its errors say where"
        logger.log(level, message, *args, extra=extra)
        return
    try:
        is_short = len(str(error)) <= MOST_LOGGED
        if is_short:
            logger.log(level, message, *args, exc_info=error, extra=extra)
    except BaseException:
        is_short = False
    if not is_short:
        logger.log(level, f"{message}: %s", *args, words_of(error), extra=extra)  # noqa: G004 -- the same message


def words_of(error: BaseException) -> str:
    """What *error* says, whatever it does when asked."""
    try:
        said = str.__str__(str(error))  # of a subclass, an own __format__ would be asked
    except BaseException:
        said = "(what it says cannot be had: its __str__ raises)"
    return f"{type(error).__name__}: {said}"[:MOST_WORDS]


def error_json(
    job: ClaimedJob, error: BaseException, *, with_traceback: bool = True, most: int = MOST_TRACEBACK
) -> str:
    """What is remembered of a failed attempt, as JSON Postgres can store: of its traceback, the last *most* characters."""
    words = words_of(error)
    remembered: dict[str, Any] = {"attempt": job.attempt, "error": storable_text(words)}
    if with_traceback and most:
        try:
            trace = "".join(traceback.format_exception(error))
        except BaseException:  # too deep, or code of the error's own raises
            trace = "".join(traceback.format_tb(error.__traceback__)) + words
        remembered["traceback"] = storable_text(trace[-most:])
    return orjson.dumps(remembered).decode()


def storable_text(text: str) -> str:
    """*text* without what Postgres refuses: NUL and lone surrogates, written out instead."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
