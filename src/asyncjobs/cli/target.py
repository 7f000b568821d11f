"""Which Jobs a verb is about: APP, or a bare database for the verbs that need none of the user's code."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import click

from asyncjobs._app import Jobs
from asyncjobs._store.dsn import has_password
from asyncjobs._store.migrate import check_schema_version
from asyncjobs._store.statements import DEFAULT_SCHEMA
from asyncjobs.cli.exits import Exit, Refused
from asyncjobs.cli.loading import load

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_APP = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def find_app(given: str | None) -> Jobs:
    """The Jobs of the application: named, in ASYNCJOBS_APP, or in pyproject.toml. Raises Refused."""
    app = given or os.environ.get("ASYNCJOBS_APP") or _app_of_project()
    if not app:
        raise Refused(
            "which Jobs? Name it as module:attribute (myapp.main:jobs), in ASYNCJOBS_APP, "
            'or in pyproject.toml: [tool.asyncjobs] app = "myapp.main:jobs"',
            Exit.USAGE,
        )
    return load(app)


def find_jobs(app: str | None, dsn: str | None, schema: str | None) -> Jobs:
    """The Jobs of an application, or of the database at *dsn*: what is named here, then in the environment, then in
    pyproject.toml. Raises Refused.
    """
    if app and (dsn or schema):
        raise Refused("APP knows its database; leave --dsn and --schema out, or APP", Exit.USAGE)
    environment, given_here = os.environ, bool(dsn)
    if not dsn and not app and not (environment.get("ASYNCJOBS_APP") and not schema):
        dsn = environment.get("ASYNCJOBS_DSN")
    if dsn:
        if given_here and has_password(dsn):
            click.echo(
                "everybody on this machine can read the password in the list of processes; "
                "ASYNCJOBS_DSN is read by yours alone, and so is the file PGPASSFILE names",
                err=True,
            )
        return Jobs(dsn, schema=schema or environment.get("ASYNCJOBS_SCHEMA") or DEFAULT_SCHEMA)
    if schema:
        raise Refused("--schema goes with --dsn or ASYNCJOBS_DSN; an APP knows its own", Exit.USAGE)
    if not (app or environment.get("ASYNCJOBS_APP") or _app_of_project()):
        raise Refused(
            "which database? Name your Jobs as module:attribute (myapp.main:jobs) or in ASYNCJOBS_APP, "
            "or say --dsn postgresql://… or ASYNCJOBS_DSN",
            Exit.USAGE,
        )
    return find_app(app)


def _app_of_project() -> str | None:
    """Only this folder's file: the code it names is run, so nobody else's folder may decide."""
    path = Path("pyproject.toml")
    if not path.is_file():
        return None
    try:
        app = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("asyncjobs", {}).get("app")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"pyproject.toml cannot be read: {error}", Exit.USAGE) from error
    if app is not None and not isinstance(app, str):
        raise Refused(f"pyproject.toml: [tool.asyncjobs] app = {app!r} is not text", Exit.USAGE)
    return app


def split_app(words: Sequence[str], *, sure: bool) -> tuple[str | None, Sequence[str]]:
    """APP, if the first word is one, and the rest. Unless *sure*, a lone word that looks like one is not."""
    if words and _APP.fullmatch(words[0]) and (sure or len(words) > 1):
        return words[0], words[1:]
    return None, words


def database(verb: F) -> F:
    """Give *verb* the options --dsn and --schema."""
    dsn = click.option(
        "--dsn", metavar="DSN", help="The database, instead of APP. Without either: ASYNCJOBS_DSN."
    )
    schema = click.option(
        "--schema", metavar="NAME", help="With --dsn: its schema (ASYNCJOBS_SCHEMA; asyncjobs)."
    )
    return dsn(schema(verb))


def place_of(jobs: Jobs) -> str:
    """Its database and its schema, in words."""
    return f"{jobs._own_source.place}, schema {jobs.schema!r}"


def within(jobs: Jobs, do: Callable[[], Awaitable[R]]) -> R:
    """What *do* returns, with *jobs* open on a database that has the schema."""

    async def main() -> R:
        async with jobs:
            await check_database(jobs)
            return await do()

    return anyio.run(main)


async def check_database(jobs: Jobs) -> None:
    """Raise DatabaseUnavailable or SchemaMismatch unless there is a database to work with."""
    async with jobs.connection() as connection:
        await check_schema_version(jobs.session(connection))
