"""A PgBouncer of one test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from tests.features import need
from tests.waiting import eventually_async

PORT = 6432
PROGRAM = shutil.which("pgbouncer") or next(
    (path for path in ("/usr/sbin/pgbouncer", "/usr/local/sbin/pgbouncer") if os.access(path, os.X_OK)), None
)


@asynccontextmanager
async def pgbouncer(dsn: str, *, mode: str = "transaction", size: int = 3) -> AsyncIterator[str]:
    """The DSN of the database through a pooler with so many server connections."""
    need("pgbouncer", PROGRAM)
    assert PROGRAM is not None
    address = urlsplit(dsn)
    (host,) = parse_qs(address.query)["host"]
    database = address.path.removeprefix("/")
    folder = Path(tempfile.mkdtemp(prefix="asyncjobs-"))  # pytest's own lets nobody in but us
    owner = os.stat(host)  # noqa: PTH116 -- the folder of the server's socket lets nobody else in
    os.chown(folder, owner.st_uid, owner.st_gid)
    config = folder / "pgbouncer.ini"
    config.write_text(f"""
[databases]
{database} = host={host} port=5432 dbname={database} user=postgres
[pgbouncer]
pool_mode = {mode}
auth_type = any
unix_socket_dir = {folder}
listen_port = {PORT}
default_pool_size = {size}
max_client_conn = 100
logfile = {folder}/log
pidfile = {folder}/pid
ignore_startup_parameters = extra_float_digits
""")
    config.chmod(0o644)
    identity: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    process = subprocess.Popen(  # noqa: ASYNC220
        [PROGRAM, "-q", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **identity,
    )
    through = f"postgresql://postgres@/{database}?host={folder}&port={PORT}"

    async def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            connection = await asyncpg.connect(through, statement_cache_size=0)
        except OSError:
            return False
        await connection.close()
        return True

    try:
        await eventually_async(answers)
        yield through
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)
