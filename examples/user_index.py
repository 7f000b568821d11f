"""A search index that is written once, however often a user was saved meanwhile.

$ python user_index.py
"""

import asyncio
import os
import sys

import asyncpg
import attrs

from asyncjobs import Jobs, Later, Missing, current_job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
TABLES = """
create table if not exists people (id int primary key, name text not null);
create table if not exists people_index (user_id int primary key, words text[] not null);
"""

jobs = Jobs(DSN)


@attrs.frozen
class UserIndex(Later, queue="index", unique="user_id"):  # one in the queue is enough
    user_id: int  # not the name: what the row says when the job runs is the truth

    async def call(self) -> None:
        async with current_job().transaction() as db:
            name = await db.fetchval("select name from people where id = $1", self.user_id)
            if name is None:
                raise Missing(f"user {self.user_id} is gone")
            await db.execute(
                "insert into people_index values ($1, $2) on conflict (user_id) do update set words = excluded.words",
                self.user_id,
                name.lower().split(),
            )


async def save_user(db: asyncpg.Connection, user_id: int, name: str) -> None:
    async with db.transaction():  # a duplicate misses nothing that is committed with it
        await db.execute(
            "insert into people values ($1, $2) on conflict (id) do update set name = excluded.name",
            user_id,
            name,
        )
        job = await UserIndex(user_id).later("call", on=db)
    print(f"saved {name}:", f"job {job.id}" if job.created else f"job {job.id} will see it")


async def main() -> None:
    db = await asyncpg.connect(DSN)
    await db.execute(TABLES)
    async with jobs:  # enqueues, and runs nothing yet
        for name in ("Ada Byron", "Ada King", "Ada Lovelace"):
            await save_user(db, 1, name)
        await save_user(db, 2, "Nobody")
        await db.execute("delete from people where id = 2")
    async with jobs.running():
        await jobs.work_off()
    for row in await db.fetch("select * from people_index"):
        print(f"index of user {row['user_id']}: {', '.join(row['words'])}")
    await db.close()


if __name__ == "__main__":
    asyncio.run(main())
