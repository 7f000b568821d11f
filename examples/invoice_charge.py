"""Charge an invoice a day after it was written, unless it is paid by then.

$ python invoice_charge.py                          # two invoices; the second is paid at once
$ python -m asyncjobs list                          # both charges are scheduled for tomorrow
$ python -m asyncjobs retry 1 2                     # do not wait: by the ids that `list` shows
$ python -m asyncjobs work-off invoice_charge:jobs  # one is charged, the other skipped
"""

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import attrs

from asyncjobs import Dependency, Jobs, Later, current_job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
TABLE = """
create table if not exists invoices (
  id bigint generated always as identity primary key, cents int not null, state text not null default 'open')
"""


@asynccontextmanager
async def connection():
    db = await asyncpg.connect(DSN)
    try:
        yield db
    finally:
        await db.close()


jobs = Jobs(DSN, provide={asyncpg.Connection: connection})


@attrs.frozen
class InvoiceCharge(Later, queue="billing"):
    invoice: int
    db: Dependency[asyncpg.Connection | None] = None  # never stored; supplied where the job runs

    async def needed(self) -> bool:
        """Asked when the day is over. No: the job is skipped."""
        return await self.db.fetchval("select state = 'open' from invoices where id = $1", self.invoice)

    async def call(self) -> None:
        async with current_job().transaction() as db:
            await db.execute(
                "update invoices set state = 'charged' where id = $1 and state = 'open'", self.invoice
            )


async def write_invoice(db: asyncpg.Connection, cents: int) -> int:
    """The invoice and its charge: both, or neither."""
    async with db.transaction(), jobs.on(db):
        invoice = await db.fetchval("insert into invoices (cents) values ($1) returning id", cents)
        await InvoiceCharge(invoice).later("call", delay=timedelta(hours=24))
    return invoice


async def main() -> None:
    async with jobs, connection() as db:
        await db.execute(TABLE)
        await write_invoice(db, 4200)
        paid = await write_invoice(db, 1700)
        await db.execute("update invoices set state = 'paid' where id = $1", paid)


if __name__ == "__main__":
    asyncio.run(main())
