"""An application of its own on the same database: `python -m tests.flows.other_application DSN`. It ends when it is told to."""

from __future__ import annotations

import asyncio
import sys

from asyncjobs import Event, Jobs, subscribe


@subscribe("tmb_signed_up", queue="mails", priority=3, where={"country": "ch"})
async def welcome(event: Event, name: str) -> str:
    return f"Grüezi {name}, says {event.application}"


async def main(dsn: str) -> None:
    async with Jobs(dsn, application="mails", queues={"mails": 2}).running():
        print("running", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
