"""A script without a web server: `python plain_asyncio.py`.

Jobs run while the block is open; what has not run when it ends waits for the next time.
"""

import asyncio
import hashlib
import os
import sys

from asyncjobs import Jobs, job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
jobs = Jobs(DSN, slots=4)


@job(queue="digests")
def digest(text: str) -> str:  # a plain def runs in a thread
    return hashlib.sha256(text.encode()).hexdigest()


async def main() -> None:
    async with jobs.running():
        handles = await jobs.enqueue_many(digest.prepare(word) for word in ("now", "or", "later"))
        for handle in handles:
            print(handle.id, await handle.result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main())
