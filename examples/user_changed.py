"""A user changes; the search index and, of paying users, the mail list follow, each by a job of its own.

$ python user_changed.py
"""

import asyncio
import os
import sys

import asyncpg
import attrs

from asyncjobs import Event, Is, Jobs, Later, subscribe

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
jobs = Jobs(DSN, application="shop")


@subscribe("user_changed")  # its fields are attributes of the event
@attrs.frozen
class UserIndex(Later, queue="index", unique=("user_id",)):  # one at a time in the queue is enough
    user_id: int

    async def call(self) -> None:
        print(f"index: user {self.user_id}")


@subscribe("user_changed", where={"plan": "pro", "email": Is.PRESENT}, queue="mails", max_attempts=5)
async def follow_on_list(user_id: int, email: str) -> None:
    print(f"mail list: user {user_id} is {email}")


@subscribe("user_*")  # whatever happens to users
async def audit(event: Event) -> None:
    print(f"audit: {event.name} of user {event['user_id']}")


async def rename(db: asyncpg.Connection, user_id: int, email: str, plan: str) -> None:
    async with db.transaction():  # the change and the news of it commit together
        await db.execute("update users set email = $2 where id = $1", user_id, email)
        await jobs.publish("user_changed", {"user_id": user_id, "email": email, "plan": plan}, on=db)
        if "@" not in email:
            raise ValueError(f"{email} is no address")


async def main() -> None:
    db = await asyncpg.connect(DSN)
    await db.execute("create table if not exists users (id int primary key, email text)")
    await db.execute("insert into users values (1, ''), (2, '') on conflict do nothing")
    async with jobs.running():  # subscribes
        await rename(db, 1, "ada@example.com", "pro")
        await rename(db, 2, "bea@example.com", "free")
        try:
            await rename(db, 2, "nonsense", "pro")
        except ValueError as error:
            print("rolled back:", error)
        await jobs.work_off()
    await db.close()


if __name__ == "__main__":
    asyncio.run(main())
