"""Run a command with a Postgres of its own, migrated: `python with_postgres.py uvicorn fastapi_sqlalchemy:app`.

The data is thrown away at the end. With a Postgres at hand, name it in ASYNCJOBS_DSN and leave this away.
"""

import asyncio
import os
import subprocess
import sys

from asyncjobs import Jobs
from asyncjobs.embedded import Embedded


def main() -> int:
    with Embedded(keep=False).running() as dsn:
        asyncio.run(Jobs(dsn).migrate())
        try:
            return subprocess.call(sys.argv[1:], env={**os.environ, "ASYNCJOBS_DSN": dsn})
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
