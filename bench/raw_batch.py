"""The limit: the smallest queue one would dare to run, by hand, on asyncpg. Claim 500, run, delete 500; no history.

This is the loop `raw-batch` of the comparison of peers, statement for statement: two connections, the next claim under way
while the last batch is deleted. It keeps nothing, retries nothing, fences nothing.
"""

from __future__ import annotations

import asyncio
import json
import time

import asyncpg

SCHEMA = """
create table raw_jobs (
  id bigint generated always as identity primary key,
  queue text not null default 'default', task text not null,
  state smallint not null default 0, priority smallint not null default 0,
  attempt smallint not null default 0, run_at timestamptz not null default now(),
  payload jsonb not null, finished_at timestamptz
) with (fillfactor = 80);
create index raw_jobs_ready on raw_jobs (priority, run_at, id) where state = 0;
create or replace function raw_notify() returns trigger language plpgsql as $$
begin perform pg_notify('raw_jobs', ''); return null; end $$;
create trigger raw_notify after insert on raw_jobs for each statement execute function raw_notify();
"""
CLAIM = """
update raw_jobs j set state = 1, attempt = attempt + 1
  from (select id from raw_jobs where state = 0 and run_at <= now()
        order by priority, run_at, id limit $1 for update skip locked) c
 where j.id = c.id returning j.id, j.task, j.payload
"""
DELETE = "delete from raw_jobs where id = any($1::bigint[])"
BATCH = 500


async def drain(dsn: str, jobs: int) -> float:
    """Jobs per second, from the first claim to the last delete."""
    claimer, finisher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await claimer.execute(SCHEMA)
    await claimer.execute(
        "insert into raw_jobs (task, payload) select 'noop', p::jsonb from unnest($1::text[]) p",
        [json.dumps({"i": i}) for i in range(jobs)],
    )
    await claimer.execute("vacuum analyze raw_jobs")
    await claimer.execute("checkpoint")
    ran: list[tuple[int, float]] = []
    deleting: asyncio.Future[str] | None = None
    started = time.perf_counter()
    while rows := await claimer.fetch(CLAIM, BATCH):
        for row in rows:
            ran.append((json.loads(row["payload"])["i"], time.monotonic()))
        if deleting is not None:
            await deleting
        deleting = asyncio.ensure_future(finisher.execute(DELETE, [row["id"] for row in rows]))
    if deleting is not None:
        await deleting
    rate = jobs / (time.perf_counter() - started)
    assert len({i for i, _ in ran}) == jobs, "every job once"
    await claimer.close()
    await finisher.close()
    return rate
