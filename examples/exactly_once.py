"""A job whose writes and whose completion are one commit: `python exactly_once.py`.

The job fails right after its commit, as if the process had died there. It does not run again, and the money is there once.
"""

import asyncio
import os
import sys

import asyncpg
import attrs

from asyncjobs import Jobs, Later, current_job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")

jobs = Jobs(DSN)


@attrs.frozen
class Deposit(Later):
    account: str
    cents: int

    async def call(self) -> int:
        async with current_job().transaction() as db:
            current_job().result = await db.fetchval(
                "update accounts set cents = cents + $2 where name = $1 returning cents",
                self.account,
                self.cents,
            )
        raise RuntimeError("too late to fail: it is committed")


async def main() -> None:
    db = await asyncpg.connect(DSN)
    await db.execute("create table if not exists accounts (name text primary key, cents int not null)")
    await db.execute("insert into accounts values ('ada', 0) on conflict (name) do update set cents = 0")
    async with jobs.running():
        handle = await Deposit("ada", 100).later("call")
        print("result", await handle.result(timeout=30))
        print("state", await handle.status())
    print("balance", await db.fetchval("select cents from accounts where name = 'ada'"))
    await db.close()


if __name__ == "__main__":
    asyncio.run(main())
