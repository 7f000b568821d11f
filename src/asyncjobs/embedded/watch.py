"""See a server off when nobody needs it any more.

The kernel counts the users: each holds a shared lock on one file, which even SIGKILL gives back. This
module is also a script. The process that runs it outlives the one that started it, waits for the last
user to go, stops the server and exits. It costs a few megabytes only because it needs the standard
library alone, so it must not import the rest of the package.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

GATE = "gate.lock"  # held while somebody comes or goes; also our mark on the folder
USERS = "users.lock"  # shared by all who use the server; tried only by who holds the gate
AWAITED = "awaited.lock"  # shared by them too, for the watcher to sleep on: if it slept on the other,
#                           the last user to leave might find it held by him, and not know he is the last
SERVER = "server.lock"  # inherited by the server and by all its children: free means they are dead, all
WATCH = "watch.lock"  # held by the watcher
EPHEMERAL = "ephemeral"  # there: the folder dies with its server
DATA = "data"
SOCKETS = "sockets"  # a link to the folder of the sockets, if they cannot be in this one

LONGEST_SOCKET_PATH = 100  # bytes; the kernels' limits are 108 (Linux) and 104 (macOS, the BSDs)
TICK = 0.01
HARSHER_AFTER = 30.0  # seconds; a checkpoint of a big queue takes its time
ORPHANED_AFTER = 1.0  # without a postmaster for so long, its children do not end by themselves


def hold(file: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Lock *file* until the returned descriptor, and each copy of it a child inherited, is closed.

    None: somebody else holds it, and we were not to wait. `flock` and not `lockf`, because its locks
    belong to the open file: they count twice within one process, and children can inherit them.
    Raises FileNotFoundError if the folder is gone.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        fd = open_private(file)
        try:
            fcntl.flock(fd, how)
            if _is_still(file, fd):  # else we waited for a lock in a folder that was deleted meanwhile
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def open_private(file: Path, flags: int = 0) -> int:
    """Open *file* for us alone; one that root makes belongs to the folder's owner, so that he can come back."""
    flags |= os.O_RDWR | os.O_NOFOLLOW
    while True:
        with contextlib.suppress(FileExistsError):
            fd = os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o600)
            if os.geteuid() == 0:
                folder = file.parent.stat()
                os.fchown(fd, folder.st_uid, folder.st_gid)
            return fd
        try:
            return os.open(file, flags)
        except FileNotFoundError:
            file.parent.stat()  # raises if it is the folder that is gone


def _is_still(file: Path, fd: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


class Postmaster(NamedTuple):
    """What a server says of itself in its `postmaster.pid`."""

    pid: int
    port: int
    sockets: str
    host: str
    status: str

    @classmethod
    def of(cls, home: Path) -> Postmaster | None:
        """None while there is none, or while it is still writing the file."""
        try:
            lines = (home / DATA / "postmaster.pid").read_text().splitlines()
            return cls(int(lines[0]), int(lines[3]), lines[4], lines[5], lines[7].strip())
        except (OSError, ValueError, IndexError):
            return None

    def lives(self) -> bool:
        """Ask the kernel, not the process table: there, a pid is reused, or stays as a zombie.

        Only the postmaster itself keeps the listening socket open, its children do not.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(1)
            try:
                door.connect(f"{self.sockets}/.s.PGSQL.{self.port}")
            except OSError as error:
                return isinstance(error, TimeoutError) or error.errno == errno.EAGAIN  # alive, and very busy
        return True


def leave(home: Path) -> bool:
    """Unless somebody uses the server of *home*: stop it, delete an ephemeral home. Call it holding the gate."""
    alone = hold(home / USERS, wait=False)
    if alone is None:
        return False
    try:
        ephemeral = (home / EPHEMERAL).exists()
        stop_server(home, in_order=not ephemeral)
        if stranger(home) is None:
            remove_sockets(home)
            if ephemeral:
                discard(home)
    finally:
        os.close(alone)
    return True


def stop_server(home: Path, *, in_order: bool) -> None:
    """Return when no process of the server is left. What does not obey is told again, and harsher.

    Out of order, nothing is written any more: the folder is to be deleted. Even SIGKILL loses nothing that
    was committed.
    """
    orders = [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL][0 if in_order else 1 :]
    begun, told = time.monotonic(), set()
    while (free := hold(home / SERVER, wait=False)) is None:
        waited = time.monotonic() - begun
        step = int(waited / HARSHER_AFTER)
        if step > len(orders):
            raise TimeoutError(f"the Postgres in {home} does not stop; its processes hold {home / SERVER}")
        server = Postmaster.of(home)
        if server is None or not server.lives():
            if waited > ORPHANED_AFTER:
                end_orphans(home)
        elif (order := (server.pid, orders[: step + 1][-1])) not in told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(*order)
            told.add(order)
        time.sleep(TICK)
    os.close(free)


def stranger(home: Path) -> int | None:
    """The pid of a server on these data that somebody started by hand (`pg_ctl restart`): it does not hold our lock."""
    try:
        pid = int((home / DATA / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    import psutil  # noqa: PLC0415 - rarely needed, and not small

    with contextlib.suppress(psutil.Error, ValueError, OverflowError):
        process = psutil.Process(pid)
        if process.name().startswith("postgres") and process.cwd() == os.path.realpath(home / DATA):
            return pid
    return None


def end_orphans(home: Path) -> None:
    """Tell the children of a dead postmaster to end: one busy with a query would not notice that it died."""
    import psutil  # noqa: PLC0415 - rarely needed, and not small

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("postgres") and process.cwd() == os.path.realpath(home / DATA):
                process.terminate()


def remove_sockets(home: Path) -> None:
    """Remove what a killed server left: its sockets, and the folder made for them elsewhere."""
    link = home / SOCKETS
    for folder in (home, link):
        for left in folder.glob(".s.PGSQL.*"):
            left.unlink(missing_ok=True)
    if link.is_symlink():
        with contextlib.suppress(OSError):
            link.resolve().rmdir()
        link.unlink(missing_ok=True)


def discard(home: Path) -> None:
    """Delete *home* so that others see all of it or nothing."""
    trash = trash_of(home)
    remove(trash)
    try:
        home.rename(trash)
    except OSError:
        remove(home)  # we may not write to the folder above
    remove(trash)


def trash_of(home: Path) -> Path:
    return home.with_name(home.name + ".gone")


def remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(folder.lstat().st_mode):
            shutil.rmtree(folder, ignore_errors=True)


def watch(home: Path) -> None:
    """Wait until nobody uses the server of *home*, then see it off; one watcher per home is enough."""
    with contextlib.suppress(FileNotFoundError):  # the last user deleted it, in order
        watching = hold(home / WATCH, wait=False)
        ephemeral = (home / EPHEMERAL).exists()
        while watching is not None:
            _close(hold(home / AWAITED))
            gate = hold(home / GATE)
            if leave(home):
                os.close(watching)  # before the gate: who comes now shall not take us for his watcher
                watching = None
            _close(gate)
        if ephemeral:
            remove(trash_of(home))  # the last user may have been killed while deleting


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
