"""One service object, now or later.

$ python export_stations.py now acme
$ python export_stations.py later acme
$ python -m asyncjobs work-off export_stations:jobs
"""

import asyncio
import os
import sys

import attrs

from asyncjobs import Jobs, Later

STATIONS = {"acme": ["Aachen", "Bonn", "Celle"], "globex": ["Genoa"]}

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
jobs = Jobs(DSN)


@attrs.frozen
class ExportStations(Later, queue="exports", max_attempts=5):
    tenant: str  # the fields are what is stored

    async def needed(self) -> bool:
        return bool(STATIONS.get(self.tenant))

    async def call(self) -> int:
        """Write the tenant's stations; how many."""
        for station in STATIONS[self.tenant]:
            print(f"{self.tenant}: {station}")
        return len(STATIONS[self.tenant])


async def main(when: str, tenant: str) -> None:
    export = ExportStations(tenant)
    if when == "now":
        print(await export.call(), "stations")
    else:
        async with jobs:  # to enqueue; it runs nothing
            handle = await export.later(export.call)
        print("job", handle.id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
