"""Another process of the application, for the tests that kill it: `python -m tests.seeds.holder DSN`."""

from __future__ import annotations

import asyncio
import sys

from asyncjobs import Jobs, current_job, job


@job(kind="seeds.held_by_who_dies", lock="key")
async def held_by_who_dies(key: str) -> int:
    if __name__ == "__main__":
        print("begun", flush=True)
        await asyncio.Event().wait()
    return current_job().attempt


async def main() -> None:
    async with Jobs(sys.argv[1]).running():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
