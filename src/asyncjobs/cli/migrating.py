"""`migrate`: bring a database to the schema this version needs."""

from __future__ import annotations

import os

import anyio
import click

from asyncjobs._store.migrate import migration_sql, needed_version
from asyncjobs._store.statements import DEFAULT_SCHEMA, check_schema
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, with_output
from asyncjobs.cli.target import database, find_app, find_jobs


@click.command(
    epilog=examples(
        "migrate myapp.main:jobs",
        "ASYNCJOBS_DSN=postgresql://… python -m asyncjobs migrate",
        "migrate --sql --schema jobs > jobs.sql",
    )
)
@click.argument("app", required=False)
@database
@click.option(
    "--sql", is_flag=True, help="Print what would run on an empty database; nothing is connected to."
)
@with_output
def migrate(app: str | None, dsn: str | None, schema: str | None, sql: bool, output: Output) -> None:
    """Create or upgrade the tables of asyncjobs.

    Harmless when there is nothing to do, and when many do it at once.
    """
    if sql:
        name = find_app(app).schema if app else schema or os.environ.get("ASYNCJOBS_SCHEMA") or DEFAULT_SCHEMA
        text = migration_sql(check_schema(name))
        output.data({"schema": name, "sql": text})
        output.text(text.rstrip())
        return
    jobs = find_jobs(app, dsn, schema)
    applied = anyio.run(jobs.migrate)
    output.data({"schema": jobs.schema, "version": needed_version(), "applied": applied})
    done = f"applied {', '.join(applied)}" if applied else "nothing to do"
    output.text(f"schema {jobs.schema!r}: {done}; it is at version {needed_version()}")
