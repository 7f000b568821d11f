"""The embedded server, as another user of the machine sees it. What starts and stops it is proved in tests/doors."""

# ruff: noqa: ASYNC221, ASYNC240 - each of these tests has its loop to itself
from __future__ import annotations

import ast
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from asyncjobs.embedded import TEST_SETTINGS, Embedded, EmbeddedUnavailable
from asyncjobs.embedded.access import MARK
from asyncjobs.embedded.watch import Postmaster
from tests.features import need, need_root
from tests.security.source import modules
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(120)


# Another user knocks: it was started as root, so that it can become anybody, and needs nothing but sockets.
KNOCK = """
import os, socket, struct, sys
address, uid, gid, role = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.setgroups([]); os.setgid(gid); os.setuid(uid)
door = socket.socket(socket.AF_UNIX)
door.settimeout(20)
try:
    door.connect(address)
except PermissionError:
    sys.exit("the socket is closed")
said = b"user\\0" + role.encode() + b"\\0database\\0postgres\\0\\0"
door.sendall(struct.pack("!ii", len(said) + 8, 196608) + said)
answer = door.recv(4096)
print(answer[:1].decode(), answer[9:].replace(b"\\0", b" ").decode(errors="replace"))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder every user may enter; not pytest's, which is closed."""
    made = Path(tempfile.mkdtemp(prefix="test-security-"))
    made.chmod(0o755)
    yield made
    eventually(lambda: gone(made))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The folder of a server that several tests share, and leave as it was."""
    folder = Path(tempfile.mkdtemp(prefix="test-security-"))
    folder.chmod(0o755)
    with embedded_in(folder).running():
        yield folder / "pg"
    eventually(lambda: gone(folder))


@pytest.fixture
def server(home: Path) -> str:
    """Its DSN."""
    return Embedded(dir=home, keep=False).dsn()


def gone(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)  # the watcher of a server that stopped may be just leaving
    return not folder.exists()


def embedded_in(folder: Path, *, keep: bool = False, port: int | None = None) -> Embedded:
    return Embedded(dir=folder / "pg", settings=TEST_SETTINGS, keep=keep, port=port)


def socket_of(dsn: str) -> Path:
    query = parse_qs(urlsplit(dsn).query)
    return Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"


def knock(dsn: str, name: str, role: str = "postgres") -> str:
    """What the server says to the user *name*."""
    need_root()
    user = pwd.getpwnam(name)
    command = [sys.executable, "-c", KNOCK, str(socket_of(dsn)), str(user.pw_uid), str(user.pw_gid), role]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def stranger(home: Path) -> str:
    """A user of this machine who neither owns *home* nor is root."""
    need_root()
    for name in ("daemon", "bin", "nobody", "mail"):
        try:
            if pwd.getpwnam(name).pw_uid not in (0, home.stat().st_uid):
                return name
        except KeyError:
            continue
    need("a second user", present=False)
    raise AssertionError


async def ask(dsn: str, sql: str = "select 1") -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@pytest.mark.failure_mode("F115")
@pytest.mark.security("SEC-E1")
async def test_another_user_is_refused_even_where_the_folder_is_open(home: Path, server: str) -> None:
    """Folder, socket and server refuse a stranger, each by itself: with the first two opened, the third still does."""
    other = stranger(home)
    assert "closed" in knock(server, other)
    home.chmod(0o755)
    assert "closed" in knock(server, other)
    socket_of(server).chmod(0o777)
    for role in ("postgres", "somebody"):
        assert "Peer authentication failed" in knock(server, other, role)
    assert knock(server, "root").startswith("R")
    socket_of(server).chmod(0o700)
    home.chmod(0o700)
    assert await ask(server, "select current_user") == "postgres"


@pytest.mark.security("SEC-E1")
async def test_its_owner_may_be_any_role(server: str) -> None:
    """Roles are the owner's to play: an application is developed under the role it will have, with the same DSN."""
    await ask(server, "create role app login")
    assert await ask(server.replace("//postgres@", "//app@"), "select current_user") == "app"


@pytest.mark.security("SEC-E1")
async def test_no_rule_of_the_server_trusts(server: str) -> None:
    """Neither by the socket nor by TCP is anybody let in on his word, also to replicate."""
    methods = await ask(server, "select array_agg(distinct auth_method) from pg_hba_file_rules")
    errors = await ask(server, "select count(*) from pg_hba_file_rules where error is not null")
    assert (methods, errors) == (["peer", "scram-sha-256"], 0)


@pytest.mark.security("SEC-E1")
async def test_data_of_an_older_asyncjobs_trust_nobody_any_more(folder: Path) -> None:
    """Their rules let in whoever reached the socket: they are replaced once, and kept beside. What is changed then stays."""
    rules = folder / "pg" / "data" / "pg_hba.conf"
    with embedded_in(folder, keep=True).running() as dsn:
        await ask(dsn, "create table kept as select 42 as answer")
    trusting = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    rules.write_text(trusting)
    with embedded_in(folder, keep=True).running() as dsn:
        assert await ask(dsn, "select answer from kept") == 42
        assert await ask(dsn, "select count(*) from pg_hba_file_rules where auth_method = 'trust'") == 0
    assert rules.with_suffix(".conf.before").read_text() == trusting
    changed = rules.read_text() + "host all all 10.0.0.0/8 reject\n"
    assert changed.startswith(MARK)
    rules.write_text(changed)
    with embedded_in(folder, keep=True).running():
        assert rules.read_text() == changed


@pytest.mark.security("SEC-E1", "SEC-C5")
async def test_no_process_of_it_listens_on_tcp(home: Path, server: str) -> None:
    """The kernel knows of no port of the server's."""
    found = Postmaster.of(home)
    assert found is not None
    postmaster = psutil.Process(found.pid)
    assert [each for each in (postmaster, *postmaster.children()) if each.net_connections("inet")] == []


@pytest.mark.security("SEC-E1")
async def test_nothing_of_it_is_readable_for_others(home: Path, server: str) -> None:
    """Not the password, not the log, not the rules: every file and folder is its owner's alone."""
    tops = [home, *home.iterdir(), *(home / "data").glob("*.conf*")]
    assert [path.name for path in tops if path.lstat().st_mode & 0o077] == []


@pytest.mark.security("SEC-E1", "SEC-C1")
async def test_no_password_is_on_a_command_line_or_in_an_environment(home: Path, server: str) -> None:
    """Of the server, of its children, of its watcher: neither arguments nor environment hold the password."""
    password = (home / "password").read_text()
    assert len(password) >= 32
    seen = [each for each in psutil.process_iter() if str(home) in str(quietly(each.cmdline))]
    assert len(seen) >= 2
    for process in seen:
        assert password not in str(quietly(process.cmdline))
        assert password not in str(quietly(process.environ))


def quietly(question: Callable[[], object]) -> object:
    """Its answer, or nothing when the process has ended meanwhile."""
    try:
        return question()
    except psutil.Error:
        return None


@pytest.mark.failure_mode("F114")
@pytest.mark.security("SEC-E2")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
async def test_a_data_folder_others_may_write_to_is_refused(folder: Path, mode: int) -> None:
    """Whoever could write there may have left a server of his own."""
    home = folder / "pg"
    home.mkdir()
    (home / "gate.lock").touch()
    home.chmod(mode)
    with pytest.raises(EmbeddedUnavailable, match="others may write"):
        embedded_in(folder, keep=True).start()
    assert home.stat().st_mode & 0o777 == mode


@pytest.mark.failure_mode("F114")
@pytest.mark.security("SEC-E2")
async def test_somebody_elses_folder_is_refused(folder: Path) -> None:
    """Who is not root uses no folder of another user's, open as it may be."""
    need_root()
    home = folder / "pg"
    home.mkdir(mode=0o755)
    (home / "gate.lock").touch()
    program = (
        "import os, sys; sys.path[:0] = sys.argv[2:]\n"
        "from asyncjobs.embedded import Embedded, EmbeddedUnavailable\n"
        "import asyncjobs.embedded.server, asyncjobs.embedded.binaries\n"
        "asyncjobs.embedded.server.find_binaries = lambda major: None\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Embedded(dir=sys.argv[1]).start()\n"
        "except EmbeddedUnavailable as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(home), *sys.path], capture_output=True, text=True, cwd="/"
    )
    assert "cannot use" in done.stdout, done.stderr
    assert home.stat().st_mode & 0o777 == 0o755
    assert os.listdir(home) == ["gate.lock"]  # noqa: PTH208


@pytest.mark.security("SEC-E3")
def test_only_code_that_names_it_starts_it() -> None:
    """In the whole package nothing makes an Embedded but the demo, and nobody else imports it."""
    users = {
        module.room
        for module in modules()
        for node in module.nodes
        if (isinstance(node, ast.ImportFrom) and "embedded" in str(node.module))
        or (isinstance(node, ast.Import) and any("embedded" in name.name for name in node.names))
    }
    assert users == {"embedded", "demo"}


@pytest.mark.faults
@pytest.mark.security("SEC-E4")
async def test_programs_of_its_names_in_path_are_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `initdb` and a `postgres` that come first in PATH, or stand in the working directory, are never started."""
    traps = folder / "traps"
    traps.mkdir()
    for name in ("postgres", "initdb", "pg_ctl", "locale"):
        (traps / name).write_text(f"#!/bin/sh\ntouch {traps}/sprung\n")
        (traps / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{traps}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(traps)
    with embedded_in(folder).running() as dsn:
        assert await ask(dsn) == 1
    assert not (traps / "sprung").exists()


@pytest.mark.security("SEC-E4")
async def test_a_link_in_the_data_folder_is_not_followed(folder: Path) -> None:
    """Where a lock or a log should be, a link to somebody's file stays unopened, and the file untouched."""
    home, victim = folder / "pg", folder / "victim"
    victim.write_text("precious")
    for name in ("log", "users.lock", "password"):
        home.mkdir(mode=0o700)
        (home / "gate.lock").touch()
        (home / name).symlink_to(victim)
        if name == "password":  # replaced, not written through
            with embedded_in(folder, keep=True).running():
                assert not (home / name).is_symlink()
        else:
            with pytest.raises(OSError, match=r"Too many levels|symbolic"):
                embedded_in(folder, keep=True).start()
        assert victim.read_text() == "precious"
        eventually(lambda: gone(home))
