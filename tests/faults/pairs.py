"""A primary and a standby that follows it, asynchronously: two servers of one test's own, on ports of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import attrs

from asyncjobs.embedded.binaries import RunAs, binaries_for
from tests.waiting import eventually, eventually_async

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "hot_standby": "on",
    "wal_log_hints": "on",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
}


@attrs.define(eq=False)
class Node:
    """One server."""

    data: Path
    port: int
    binaries: Path
    run_as: RunAs | None

    def dsn(self) -> str:
        return several(self)

    def start(self) -> None:
        options = " ".join(
            f"-c {name}='{value}'" for name, value in {**SETTINGS, "port": str(self.port)}.items()
        )
        self._run("pg_ctl", "start", "-w", "-D", self.data, "-l", self.data / "log", "-o", options)

    def stop(self, how: str = "fast") -> None:
        """`fast`, or `immediate`, as if the power were gone."""
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-D", self.data, "-m", how)

    def freeze(self) -> None:
        """As a machine that hangs: connections stay open, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, how: signal.Signals) -> None:
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, how)
        for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with suppress(ProcessLookupError):  # it came and went
                os.kill(int(child), how)

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-w", "-D", self.data)

    def follow(self, primary: Node) -> None:
        """Begin anew as a standby of *primary*."""
        shutil.rmtree(self.data, ignore_errors=True)
        source = f"host=127.0.0.1 port={primary.port} user=postgres"
        self._run(
            "pg_basebackup", "-d", source, "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync"
        )
        self.start()

    def _run(self, program: str, *words: Any) -> None:
        identity: Any = self.run_as.identity() if self.run_as else {}
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [self.binaries / program, *map(str, words)],
                stdout=said,
                stderr=said,
                cwd="/",
                check=False,
                **identity,
            )
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


def several(*nodes: Node, more: str = "") -> str:
    """The DSN that names them all."""
    return f"postgresql://postgres@{','.join(f'127.0.0.1:{node.port}' for node in nodes)}/postgres{more}"


@contextmanager
def a_pair() -> Iterator[tuple[Node, Node]]:
    """A primary and its standby."""
    home = Path(tempfile.mkdtemp(prefix="asyncjobs-pair-"))
    run_as = RunAs.for_home(home)
    if run_as is not None:
        os.chown(home, run_as.uid, run_as.gid)
    binaries = binaries_for(run_as, 18)
    one, two = (Node(home / name, port, binaries, run_as) for name, port in zip("ab", _ports(2), strict=True))
    try:
        one._run(
            "initdb",
            "-D",
            one.data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        )
        one.start()
        two.follow(one)
        yield one, two
    finally:
        for node in (one, two):
            node.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


def _ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def caught_up(primary: Node) -> None:
    """Wait until the standby has all there is."""
    connection = await asyncpg.connect(primary.dsn())
    try:
        now = await connection.fetchval("select pg_current_wal_flush_lsn()")

        async def has_it() -> bool:
            query = "select coalesce(bool_or(replay_lsn >= $1::pg_lsn), false) from pg_stat_replication"
            return bool(await connection.fetchval(query, now))

        await eventually_async(has_it)
    finally:
        await connection.close()


async def fall_behind(standby: Node) -> None:
    """The standby receives nothing more."""
    connection = await asyncpg.connect(standby.dsn())
    await connection.execute("alter system set primary_conninfo = ''")
    await connection.execute("select pg_reload_conf()")

    async def receives() -> bool:
        return not await connection.fetchval("select count(*) from pg_stat_wal_receiver")

    await eventually_async(receives)
    await connection.close()


def gone(node: Node) -> None:
    """Wait until nothing of it runs."""
    eventually(lambda: not (node.data / "postmaster.pid").exists())
