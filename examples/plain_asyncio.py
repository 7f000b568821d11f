"""A script without a web server: `python plain_asyncio.py`.

Jobs run while the block is open; what has not run when it ends waits for the next time.
"""

import asyncio
import hashlib
import os

from asyncjobs import Jobs, job

jobs = Jobs(os.environ["ASYNCJOBS_DSN"], slots=4)


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
