"""One folder, one server, any number of processes: come, use it, leave.

Who comes or goes passes a gate, one at a time. What is asked there is asked of the kernel: is the lock of
the users held (somebody is here), is the lock of the server held (some process of it lives), does its
socket accept (the postmaster itself lives). No list of pids is kept, so none can be wrong after a kill -9.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

import platformdirs
from attrs import Factory, define, field

from asyncjobs.embedded import access, watch
from asyncjobs.embedded.binaries import (
    ROOTS_FOLDER,
    EmbeddedUnavailable,
    RunAs,
    binaries_for,
    find_binaries,
    make_folders,
)
from asyncjobs.embedded.watch import Postmaster

DEV_SETTINGS: Mapping[str, str] = {"jit": "off"}  # fsync stays on: this is somebody's queue

TEST_SETTINGS: Mapping[str, str] = {  # a lost test database is no loss
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "max_connections": "200",
    "autovacuum": "off",  # no lock a test did not take
    "jit": "off",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves nothing outside its folder
    "file_copy_method": "clone",  # of a template; costs nothing where the file system cannot
}

SINCE = {"file_copy_method": 18}  # settings an older Postgres would refuse
SUPERUSER = "postgres"
EVERY_ROLE_SINCE = 16  # a map of users to roles can say "all" since then
LOCALHOST = "127.0.0.1"
SOCKET_PORT = 5432  # the number in the socket's name; no TCP port is opened
STARTING = 600.0  # seconds; a start may include the recovery of a big queue
ROOM_FOR_TESTS = 1 << 30


def default_dir(major: int = 18) -> Path:
    """Where users expect data; for root below /var/lib, because his home is closed to who runs the server."""
    if sys.platform != "win32" and os.geteuid() == 0:
        return ROOTS_FOLDER / f"pg{major}"
    return platformdirs.user_data_path("asyncjobs", appauthor=False) / f"pg{major}"


def scratch_dir() -> Path:
    """A path for a server that will not stay: in memory, if there is room."""
    memory = Path("/dev/shm")  # noqa: S108 - the name in it cannot be guessed
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_FOR_TESTS
    return (memory if roomy else Path(tempfile.gettempdir())) / f"asyncjobs-{secrets.token_hex(8)}"


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().resolve()


def _dir_of(embedded: Embedded) -> Path:
    return default_dir(embedded.major) if embedded.keep else scratch_dir()


@define(eq=False)
class Embedded:
    """A Postgres of our own, for development, demos and tests; it runs only while somebody uses it.

    Any number of processes, and of objects in one, may name the same folder: the first to come starts the
    server, the last to leave stops it, however it leaves. Without *keep* the folder is deleted with it.
    *settings* and *port* are those of who starts the server. With a *port*, it listens on 127.0.0.1 too,
    where a random password is asked; otherwise on a socket alone, in a folder only its owner may enter,
    and the server asks the kernel who knocks: its owner and root are let in, as any role, nobody else.
    """

    settings: Mapping[str, str] = field(default=DEV_SETTINGS, kw_only=True)
    major: int = field(default=18, kw_only=True)
    keep: bool = field(default=True, kw_only=True)
    port: int | None = field(default=None, kw_only=True)
    dir: Path = field(converter=_absolute, default=Factory(_dir_of, takes_self=True))
    _using: list[int] = field(factory=list, init=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Use the server within the block; gives the DSN of its database `postgres`."""
        dsn = self.start()
        try:
            yield dsn
        finally:
            self.stop()

    def start(self) -> str:
        """Come: start the server unless it runs. Returns its DSN. Starting again revives a server that died."""
        if sys.platform == "win32":
            raise EmbeddedUnavailable("no embedded Postgres on Windows yet; name a running server by its DSN")
        find_binaries(self.major)  # before a folder is made in vain
        with self._gate() as run_as:
            came = not self._using
            try:
                if came:
                    self._mark()
                    self._come()
                self._see_to_a_watcher()
                self._see_to_a_server(run_as)
                return self.dsn()
            except BaseException:
                if came:
                    self._leave()
                raise

    def stop(self) -> None:
        """Leave; the last to leave stops the server, and waits until none of its processes is left."""
        if self._using:
            try:
                gate = watch.hold(self.dir / watch.GATE)
            except FileNotFoundError:  # somebody deleted the folder; Postgres notices that within a minute
                self._go()
                return
            assert gate is not None
            try:
                self._leave()
            finally:
                os.close(gate)

    def dsn(self, database: str = "postgres") -> str:
        """The DSN of *database* on the running server."""
        server = Postmaster.of(self.dir)
        if server is None:
            raise EmbeddedUnavailable(f"the Postgres in {self.dir} does not run; start it first")
        name = quote(database, safe="")
        if self.port is None:
            return f"postgresql://{SUPERUSER}@/{name}?host={quote(server.sockets)}&port={server.port}"
        if not server.host:
            raise EmbeddedUnavailable(
                f"the Postgres in {self.dir} was started without a port; use its socket"
            )
        password = (self.dir / "password").read_text()
        return f"postgresql://{SUPERUSER}:{password}@{server.host}:{server.port}/{name}"

    @contextlib.contextmanager
    def _gate(self) -> Iterator[RunAs | None]:
        """Pass one at a time, in a folder that exists and is ours."""
        while True:
            try:
                run_as = self._prepare_home()
                gate = watch.hold(self.dir / watch.GATE)
                break
            except FileNotFoundError:  # the last user of an ephemeral home just deleted it
                continue
        assert gate is not None
        try:
            if run_as and not run_as.can("-w", self.dir):
                raise EmbeddedUnavailable(
                    f"{run_as.name}, who is to run Postgres, cannot enter the folders above {self.dir}; name a "
                    "folder elsewhere (asyncjobs changes the mode of no folder it did not make)"
                )
            yield run_as
        finally:
            os.close(gate)

    def _prepare_home(self) -> RunAs | None:
        """Make the folder, or take it if it is empty or ours. No other folder's mode is touched.

        Raises FileNotFoundError if its last user deletes it meanwhile.
        """
        home = self.dir
        try:
            make_folders(home.parent)
            with contextlib.suppress(FileExistsError):
                home.mkdir(mode=0o700)
            found = home.stat()
            content = {entry.name for entry in home.iterdir()}
            if content and watch.GATE not in content:
                raise EmbeddedUnavailable(
                    f"{home} is not empty and no embedded Postgres; name a folder of its own"
                )
            if content and found.st_mode & 0o022:
                raise EmbeddedUnavailable(
                    f"others may write to {home}: look what they left, then chmod 700 it"
                )
            run_as = RunAs.for_home(home)
            if run_as and found.st_uid != run_as.uid:
                os.chown(home, run_as.uid, run_as.gid)
            home.chmod(0o700)
        except (PermissionError, NotADirectoryError) as error:
            raise EmbeddedUnavailable(
                f"cannot use {home} for a Postgres: {error}; name another folder"
            ) from error
        return run_as

    def _mark(self) -> None:
        """Note at birth whether this home stays; nobody deletes or keeps it by mistake later."""
        mark, born = self.dir / watch.EPHEMERAL, (self.dir / watch.DATA).exists()
        if not born and not self.keep:
            os.close(watch.open_private(mark))
        if mark.exists() == self.keep:
            what = "is deleted when its last user leaves" if self.keep else "holds data that is kept"
            raise EmbeddedUnavailable(f"{self.dir} {what}; open it with keep={not self.keep} or name another")

    def _see_to_a_watcher(self) -> None:
        unwatched = watch.hold(self.dir / watch.WATCH, wait=False)
        if unwatched is not None:
            os.close(unwatched)
            with _log(self.dir) as log:
                _detach([sys.executable, "-I", watch.__file__, str(self.dir)], log)

    def _see_to_a_server(self, run_as: RunAs | None) -> None:
        """Return when the server accepts connections; start it if no process of it lives."""
        begun, launched = time.monotonic(), False
        while True:
            waited = time.monotonic() - begun
            server = Postmaster.of(self.dir)
            dead = watch.hold(self.dir / watch.SERVER, wait=False)
            if dead is not None:
                try:
                    if launched:
                        raise EmbeddedUnavailable(f"Postgres did not start. {_last_words(self.dir)}")
                    if (pid := watch.stranger(self.dir)) is not None:
                        raise EmbeddedUnavailable(
                            f"process {pid}, a Postgres that was started by hand, runs on {self.dir / watch.DATA}; "
                            "stop it (pg_ctl stop), or connect to it by its own DSN"
                        )
                    self._launch(run_as, dead)
                    launched = True
                finally:
                    os.close(dead)
            elif waited > STARTING:
                raise EmbeddedUnavailable(
                    f"Postgres is not ready after {waited:.0f} s. {_last_words(self.dir)}"
                )
            elif server and server.lives():
                if server.status == "ready":
                    return
            elif waited > watch.ORPHANED_AFTER and not launched:
                watch.end_orphans(self.dir)
            time.sleep(watch.TICK)

    def _launch(self, run_as: RunAs | None, lock: int) -> None:
        """Start the server; it and its children inherit *lock*. No process of an earlier one is left."""
        binaries = binaries_for(run_as, self.major)
        self._see_to_a_cluster(binaries, run_as, lock)
        access.write_rules(self.dir / watch.DATA, SUPERUSER, every_role=self.major >= EVERY_ROLE_SINCE)
        # The pid in it is dead, but Postgres believes a zombie, or whoever has the number now, to be its server.
        (self.dir / watch.DATA / "postmaster.pid").unlink(missing_ok=True)
        watch.remove_sockets(self.dir)
        settings = {
            **{name: value for name, value in self.settings.items() if self.major >= SINCE.get(name, 0)},
            "port": str(self.port or SOCKET_PORT),
            "listen_addresses": LOCALHOST if self.port else "",
            "unix_socket_directories": _quoted(self._socket_folder(run_as)),
            "unix_socket_permissions": "0700",
        }
        program = [str(binaries / "postgres"), "-D", str(self.dir / watch.DATA)]
        program += [f"-c{name}={value}" for name, value in settings.items()]
        with _log(self.dir) as log:
            _detach(program, log, run_as, lock)

    def _see_to_a_cluster(self, binaries: Path, run_as: RunAs | None, lock: int) -> None:
        data, unborn = self.dir / watch.DATA, self.dir / "unborn"
        if data.exists():
            if (found := (data / "PG_VERSION").read_text().strip()) != str(self.major):
                raise EmbeddedUnavailable(
                    f"{data} was made by Postgres {found}, not {self.major}: open it with major={found}, "
                    "or name another folder"
                )
            return
        watch.remove(unborn)  # somebody was killed while making it
        password = self.dir / "password"
        password.unlink(missing_ok=True)
        with open(watch.open_private(password), "w") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(secrets.token_urlsafe(24))
        options = ["-D", str(unborn), "-U", SUPERUSER, "-E", "UTF8", "--no-locale"]
        options += ["--auth-local=peer", "--auth-host=scram-sha-256", f"--pwfile={password}"]
        if self.major >= 17:
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.keep:
            options += ["--no-sync"]
            options += ["--no-data-checksums"] if self.major >= 18 else []
        with _log(self.dir) as log:
            done = _run([str(binaries / "initdb"), *options], log, run_as, lock)
        if done.returncode:
            raise EmbeddedUnavailable(f"initdb could not make {unborn}. {_last_words(self.dir)}")
        unborn.rename(data)  # a name only a complete one bears

    def _socket_folder(self, run_as: RunAs | None) -> Path:
        """The home; or a private folder in the temporary one, if no DSN can name a socket in the home."""
        address = os.fsencode(self.dir / f".s.PGSQL.{self.port or SOCKET_PORT}")
        if len(address) <= watch.LONGEST_SOCKET_PATH and b"," not in address:  # DSNs list hosts by commas
            return self.dir
        elsewhere = Path(tempfile.mkdtemp(prefix="asyncjobs-"))
        if run_as:
            os.chown(elsewhere, run_as.uid, run_as.gid)
        (self.dir / watch.SOCKETS).symlink_to(elsewhere)
        return elsewhere

    def _come(self) -> None:
        for lock in (watch.USERS, watch.AWAITED):
            fd = watch.hold(self.dir / lock, shared=True)
            assert fd is not None
            self._using.append(fd)

    def _go(self) -> None:
        while self._using:
            os.close(self._using.pop())

    def _leave(self) -> None:
        self._go()
        try:
            watch.leave(self.dir)
        except TimeoutError as error:
            raise EmbeddedUnavailable(str(error)) from error


def _run(
    program: Sequence[str], log: IO[bytes], run_as: RunAs | None = None, lock: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run *program* in its own session, where no Ctrl-C of ours reaches it, without our PG* variables."""
    return subprocess.run(
        program,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        start_new_session=True,
        pass_fds=() if lock is None else (lock,),
        check=False,
        **(run_as.identity() if run_as else {}),
    )


def _detach(
    program: Sequence[str], log: IO[bytes], run_as: RunAs | None = None, lock: int | None = None
) -> None:
    """Start *program* as nobody's child: it may outlive us, and need not be waited for."""
    _run(["/bin/sh", "-c", '"$@" &', "sh", *program], log, run_as, lock)


@contextlib.contextmanager
def _log(home: Path) -> Iterator[IO[bytes]]:
    with open(watch.open_private(home / "log", os.O_APPEND), "ab") as log:  # noqa: PTH123 - a descriptor
        yield log


def _last_words(home: Path) -> str:
    lines = (home / "log").read_text(errors="replace").splitlines()
    return "The last lines of its log:\n" + "\n".join(lines[-20:])


def _quoted(folder: Path) -> str:
    """As one element of a list in Postgres' configuration, whatever is in the path."""
    return '"' + str(folder).replace('"', '""') + '"'
