"""A machine that can be lost: a network namespace for a machine, at the end of a cable that can be pulled."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from unittest.mock import patch

import attrs

from asyncjobs import Jobs
from asyncjobs.embedded import TEST_SETTINGS, Embedded

HERE, THERE = "10.203.113.1", "10.203.113.2"  # the two ends of the cable; nobody else is on it
numbers = itertools.count()


@attrs.frozen
class Cable:
    """Leads to a namespace, which stands for a machine."""

    namespace: str
    device: str

    @property
    def inside(self) -> list[str]:
        """What a command starts with to run on that machine."""
        return ["ip", "netns", "exec", self.namespace]

    def pull(self) -> None:
        _ip("link", "set", self.device, "down")

    def plug(self) -> None:
        _ip("link", "set", self.device, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def can_make_namespaces() -> bool:
    """Whether this machine and user can play at machines."""
    try:
        _ip("netns", "add", "ajprobe")
    except (OSError, subprocess.CalledProcessError):
        return False
    _ip("netns", "delete", "ajprobe")
    return True


@contextmanager
def laid_cable() -> Iterator[Cable]:
    """A cable and what is at its end; nothing is left of both afterwards."""
    number = next(numbers)
    cable = Cable(f"aj{os.getpid()}_{number}", f"aj{os.getpid()}.{number}"[:15])
    _ip("netns", "add", cable.namespace)
    try:
        _ip("link", "add", cable.device, "type", "veth", "peer", "name", "eth0", "netns", cable.namespace)
        _ip("address", "add", f"{HERE}/30", "dev", cable.device)
        _ip("-n", cable.namespace, "address", "add", f"{THERE}/30", "dev", "eth0")
        _ip("-n", cable.namespace, "link", "set", "eth0", "up")
        cable.plug()
        yield cable
    finally:
        _ip("netns", "delete", cable.namespace)  # and the cable with it


@attrs.frozen
class Ends:
    """A database by the cable, and by the socket."""

    far: str
    near: str


@asynccontextmanager
async def server_at_the_cable() -> AsyncIterator[Ends]:
    """A migrated server that listens at its end of the cable, and nowhere else."""
    with (
        patch("asyncjobs.embedded.server.LOCALHOST", HERE),
        tempfile.TemporaryDirectory() as folder,
        socket.socket() as free,
    ):
        free.bind((HERE, 0))
        port = free.getsockname()[1]
        free.close()
        os.chmod(folder, 0o755)  # noqa: PTH101
        who = Path(folder) / "pg_hba.conf"
        who.write_text(f"local all all trust\nhost all all {HERE}/30 scram-sha-256\n")
        who.chmod(0o644)
        embedded = Embedded(settings={**TEST_SETTINGS, "hba_file": str(who)}, keep=False, port=port)
        far = await asyncio.to_thread(embedded.start)
        near = f"postgresql://postgres@/postgres?host={embedded.dir}&port={port}"
        try:
            await Jobs(near).migrate()
            yield Ends(far, near)
        finally:
            await asyncio.to_thread(embedded.stop)
