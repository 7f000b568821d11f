"""Read back from Postgres what the application did, and compare it with the data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from asyncjobs import Connection
from asyncjobs.demo.airfields import Airfield, Countries


async def check(db: Connection, countries: Countries) -> list[str]:
    """What is not as it should be: nothing, when every station of every country was exported as the data set has it."""
    exports = await db.fetch("""
        select tenant, job, stations, csv, jobs.state, jobs.attempt, jobs.max_attempts, jobs.errors -> -1 ->> 'error' as error
          from exports left join asyncjobs.jobs on jobs.id = exports.job
         order by tenant
    """)
    jobs = await db.fetchval("select count(*) from asyncjobs.jobs")
    return list(faults_of(exports, jobs, countries))


def faults_of(exports: Any, jobs: int, countries: Countries) -> Iterator[str]:
    """As `check`, of what was read."""
    for export in exports:
        tenant = export["tenant"]
        if export["state"] != "completed":
            story = "{tenant}: job {job} is {state} after {attempt} of {max_attempts} attempts: {error}"
            yield story.format_map(export)
        elif read_csv(export["csv"]) != countries[tenant] or export["stations"] != len(countries[tenant]):
            yield f"{tenant}: its export is not what the data set says"
    for tenant in sorted(countries.keys() - {export["tenant"] for export in exports}):
        yield f"{tenant}: it has no export"
    if jobs != len(exports):
        yield f"there are {jobs} jobs for {len(exports)} exports, though each pair is one commit"


def read_csv(text: str | None) -> list[Airfield]:
    """The airfields in *text*, as the data set has them."""
    return list(csv.DictReader(io.StringIO(text or "", newline=""), quoting=csv.QUOTE_NONNUMERIC))
