"""How the command ends: an exit code for scripts, one clear sentence for people."""

from __future__ import annotations

from enum import IntEnum
from typing import IO, Any

import asyncpg
import click

from asyncjobs._store.faults import is_transient
from asyncjobs.cli.output import visible
from asyncjobs.errors import (
    DatabaseUnavailable,
    InvalidDefinition,
    InvalidInput,
    InvalidOption,
    JobNotFound,
    JobsError,
    ScheduleNotFound,
    SchemaMismatch,
    UnknownKind,
)


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NO_DATABASE = 4
    INTERRUPTED = 130


class Refused(click.ClickException):
    """The end of the command, with a sentence on stderr. *details* are shown above it."""

    def __init__(self, message: str, code: Exit = Exit.FAILED, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details.rstrip()
        self.exit_code = code  # type: ignore[misc]  # click reads the instance's

    def show(self, file: IO[Any] | None = None) -> None:
        if self.details:
            click.echo(visible(self.details), file=file, err=file is None)
        super().show(file)

    def format_message(self) -> str:
        return visible(super().format_message())


def refusal(error: BaseException) -> Refused | None:
    """What to say of an error somebody expected; None for a fault, whose traceback should be seen."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    match error:
        case JobNotFound() | ScheduleNotFound() | UnknownKind():
            code = Exit.NOT_FOUND
        case DatabaseUnavailable() | SchemaMismatch():
            code = Exit.NO_DATABASE
        case InvalidOption() | InvalidInput() | InvalidDefinition():
            code = Exit.USAGE
        case JobsError():
            code = Exit.FAILED
        case asyncpg.InsufficientPrivilegeError():
            return Refused(f"Postgres refuses: {error}")
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | ConnectionResetError() if is_transient(
            error
        ):
            return Refused(f"Postgres went away ({type(error).__name__}: {error})", Exit.NO_DATABASE)
        case _:
            return None
    return Refused(str(error), code)
