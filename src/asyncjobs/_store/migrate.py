"""Bring a database to the schema this code needs: forward only, under a lock, printable for other migration tools."""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib.resources import files

import anyio
import attrs

from asyncjobs._store.chores import restore_ballast
from asyncjobs._store.connection import Connection
from asyncjobs._store.faults import is_lock_timeout, is_missing_schema
from asyncjobs._store.session import Session
from asyncjobs._store.statements import in_schema, statements
from asyncjobs.errors import SchemaMissing, SchemaTooNew, SchemaTooOld

logger = logging.getLogger("asyncjobs")


@attrs.frozen
class Migration:
    """One numbered file. Its first line says from which version on code can work with the schema it leaves."""

    version: int
    name: str
    oldest_code: int
    text: str


_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_PROMISE = re.compile(r"-- (?:expand|contract): code from version (\d+) on")


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration, in order."""
    found = []
    for file in (files("asyncjobs") / "_store" / "migrations").iterdir():
        if name := _NAME.fullmatch(file.name):
            text = file.read_text("utf-8")
            promise = _PROMISE.match(text)
            assert promise, f"{file.name} does not say which code can work with it"
            found.append(Migration(int(name[1]), name[2], int(promise[1]), text))
    return tuple(sorted(found, key=lambda migration: migration.version))


def needed_version() -> int:
    """The version of the schema this code is written for."""
    return migrations()[-1].version


LOCK_WAIT = 2.0  #: seconds a migration waits for a table, with everybody else waiting behind it
LET_THROUGH = 1.0  #: seconds in which all those have their turn, before it tries again


async def migrate(connection: Connection, schema: str) -> list[Migration]:
    """Apply what is missing, in one transaction; harmless when ten processes do it at once. What was applied.

    A long transaction on a table of ours is waited out, without stopping the application for as long.
    """
    while True:
        try:
            return await _migrate(connection, schema)
        except Exception as error:
            if not is_lock_timeout(error):
                raise
        logger.warning("migrating waits for a transaction that uses our tables; others go first meanwhile")
        await anyio.sleep(LET_THROUGH)


async def _migrate(connection: Connection, schema: str) -> list[Migration]:
    session = Session(connection, schema)
    sql = statements(schema)
    async with connection.transaction():
        await session.execute("begin_migrating")
        await session.execute("lift_timeouts")
        await session.fetchval("lock_migrations")
        await session.execute("limit_lock_wait", int(LOCK_WAIT * 1000))
        await connection.execute(sql["create_schema"])
        version, _ = await session.fetchrow("read_version")
        missing = [migration for migration in migrations() if migration.version > (version or 0)]
        for migration in missing:
            await connection.execute(in_schema(migration.text, schema))
            await session.execute(
                "record_migration", migration.version, migration.name, migration.oldest_code
            )
        await restore_ballast(session)
        if missing:
            await session.execute("analyze_jobs")
    return missing


def migration_sql(schema: str) -> str:
    """What `migrate` would run on an empty database, as one script for psql or another migration tool."""
    parts = [statements(schema)["create_schema"]]
    for migration in migrations():
        parts.append(in_schema(migration.text, schema))
        record = statements(schema)["record_migration"].rstrip()
        for number, value in enumerate(
            (str(migration.version), f"'{migration.name}'", str(migration.oldest_code)), 1
        ):
            record = record.replace(f"${number}::", f"{value}::")
        parts.append(f"{record};\n")
    parts += [statements(schema)[name].rstrip() + ";\n" for name in ("restore_ballast", "analyze_jobs")]
    return "\n".join(["begin;\n", *parts, "commit;\n"])


async def check_schema_version(session: Session) -> None:
    """Raise SchemaMissing, SchemaTooOld or SchemaTooNew unless this code can work with the database's schema."""
    try:
        version, oldest_code = await session.fetchrow("read_version")
    except Exception as error:
        if is_missing_schema(error):
            raise SchemaMissing(session.schema) from error
        raise
    if version is None:
        raise SchemaMissing(session.schema)
    if version < needed_version():
        raise SchemaTooOld(session.schema, version, needed_version())
    if oldest_code > needed_version():
        raise SchemaTooNew(session.schema, version, needed_version())
