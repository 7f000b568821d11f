"""A service object. It knows its business, and not whether it is called now or later."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs

from asyncjobs import Exponential, Later, current_job


@attrs.frozen
class ExportStations(
    Later, queue="exports", max_attempts=3, backoff=Exponential(first=timedelta(seconds=0.5))
):
    """Writes the stations of one tenant as CSV, for all of its exports that wait."""

    tenant: str

    async def call(self) -> None:
        """The CSV and the completion of the job are one commit: either both are there or neither."""
        async with current_job().transaction() as db:
            stations = await db.fetch(
                'select * from stations where country = $1 order by icao collate "C"', self.tenant
            )
            await db.execute(
                "update exports set csv = $2, stations = $3, finished_at = now() "
                "where tenant = $1 and finished_at is null",
                self.tenant,
                as_csv(stations),
                len(stations),
            )


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """*rows* below their column names: text in quotes, numbers bare."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(rows[0].keys())
    writer.writerows(row.values() for row in rows)
    return text.getvalue()
