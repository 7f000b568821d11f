"""`python3 noxfile.py demo`, `tests`, `lint`, …: needs Python 3.11 and nothing else; with nox, `nox -s demo` is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
OLDEST_NOX = "2025.10.14"
SOME_FAILED = 1  # pytest's exit code; tests that were not run, after a crash, have another


def main() -> None:
    """Become nox: the installed one, or one brought along."""
    if sys.version_info < (3, 11):  # noqa: UP036 -- this file is the first to be told
        sys.exit(f"asyncjobs needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    given = sys.argv[1:]
    sessions = ["--session"] if given and not given[0].startswith("-") else []
    python = sys.executable if nox_is_here() else str(bring_nox())
    command = [python, "-m", "nox", "--noxfile", __file__, *sessions, *given]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(python, command)  # noqa: S606 -- not a child: a Ctrl-C is for nox alone to handle


def nox_is_here() -> bool:
    try:
        return numbers(version("nox")) >= numbers(OLDEST_NOX)
    except PackageNotFoundError:
        return False


def numbers(dotted: str) -> list[int]:
    return [int(part) for part in dotted.split(".") if part.isdigit()]


def bring_nox() -> Path:
    """Install nox into `.nox/runner`, once; the Python that has it."""
    home = HERE / ".nox" / "runner"
    python, ready = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), home / "ready"
    if not ready.exists():
        if find_spec("ensurepip") is None:
            sys.exit(
                "This Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
            )
        print(f"Installing nox into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, f"nox[uv]>={OLDEST_NOX}"], check=True)
        ready.touch()
    return python


if __name__ == "__main__":
    main()

import nox  # noqa: E402 -- here we are read by nox

nox.needs_version = f">={OLDEST_NOX}"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"  # what is not on the machine is skipped, and said so
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests"]

# pyenv's own commands answer for the chosen version alone; the others it installed are beside it.
PYENV = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
BESIDE = glob(f"{PYENV}/versions/3.*/bin")  # noqa: PTH207 -- unlike Path's, it takes a closed folder for an empty one
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *BESIDE])

GROUPS = nox.project.load_toml(HERE / "pyproject.toml")


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install asyncjobs, editable, with what the dependency groups of pyproject.toml name."""
    session.install("-e", f".{extras}", *nox.project.dependency_groups(GROUPS, *groups))


def run(session: nox.Session, *command: str, success_codes: Sequence[int] = (0,), **env: str) -> None:
    # Seconds to stop after Ctrl-C: nox's own 0.3 are fewer than a web server, or a test, needs to tidy up.
    session.run(*command, env=env, success_codes=success_codes, interrupt_timeout=5, terminate_timeout=20)


def pytest(session: nox.Session, *arguments: str, **env: str) -> None:
    """Two processes, each with a Postgres of its own, a file at a time: most tests wait for other processes.

    In CI, what failed beside the others is run once more, alone, and both runs are shown: the machines there are shared.
    """
    in_ci, notes = bool(os.environ.get("CI")), Path(session.virtualenv.location) / "pytest"
    failed = notes / "v" / "cache" / "lastfailed"
    failed.unlink(missing_ok=True)
    # One order of sets in both, which must find the same tests. A process that a timeout ended is not replaced: the others
    # would wait for its tests for ever.
    command = ["python", "-m", "pytest", "-o", f"cache_dir={notes}", "--max-worker-restart", "0"]
    beside = [*command, "-n", "2", "--dist", "loadfile", *arguments, *session.posargs]
    run(session, *beside, success_codes=[0, SOME_FAILED] if in_ci else [0], PYTHONHASHSEED="0", **env)
    if failed.exists() and (names := json.loads(failed.read_text())):
        session.warn(f"{len(names)} failed beside the others, and are run alone: {', '.join(names)}")
        run(session, *command, "--last-failed", *arguments, *session.posargs, PYTHONHASHSEED="0", **env)


@nox.session
def demo(session: nox.Session) -> None:
    """A web application works through real data, on a Postgres of its own: `-- --once`, `-- --once --break IS`."""
    install(session, extras="[demo]")
    run(session, "python", "-m", "asyncjobs", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests a bare machine can run, on an embedded PostgreSQL 18; pass pytest's arguments after `--`."""
    install(session, "tests")
    pytest(session)


@nox.session
@nox.parametrize(
    ("python", "postgres"), [("3.12", "18"), ("3.13", "18"), (f"3.{sys.version_info.minor}", "16")]
)
def compat(session: nox.Session, postgres: str) -> None:
    """Flows and laws on other Pythons, where they are installed, and on the older of the two embedded Postgres."""
    install(session, "tests")
    pytest(session, "tests/flows", "tests/laws", ASYNCJOBS_TEST_PG=postgres)


@nox.session
def faults(session: nox.Session) -> None:
    """Break connections, processes and servers, and see what is left. The mutants at random, an hour, are `machine`'s."""
    install(session, "tests")
    run(session, "python", "-m", "pytest", "-m", "faults", "--ignore", "tests/machine", *session.posargs)


@nox.session
def machine(session: nox.Session) -> None:
    """The store next to its model, and the runner under seeded faults, for longer: `-- --examples 20000`."""
    install(session, "tests")
    given = list(session.posargs)
    examples = "1000"
    if "--examples" in given:
        at = given.index("--examples")
        _, examples = given[at : at + 2]
        del given[at : at + 2]
    command = ["python", "-m", "pytest", "tests/machine", "-m", "", "-s", *given]
    seeds = str(max(4, int(examples) // 20))
    run(session, *command, ASYNCJOBS_MACHINE_EXAMPLES=examples, ASYNCJOBS_SEEDS=seeds)


@nox.session
def mutants(session: nox.Session) -> None:
    """Take a feature out, line by line of the seeds' checklists: its tests notice, and no others. Only some: `-- D8 Q3`."""
    install(session, "tests")
    run(session, "python", "-m", "tests.mutants", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and which room may import which."""
    install(session, "lint")
    run(session, "ruff", "check")
    run(session, "ruff", "format", "--check")
    run(session, "lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check the code and its tests with mypy, and with pyright what users' checkers must accept and refuse."""
    install(session, "types")
    run(session, "mypy")
    run(session, "pyright", "tests/typing")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    if not (HERE / "docs" / "conf.py").exists():
        session.skip("there is no docs/conf.py yet")
    install(session, "docs")
    run(session, "sphinx-build", "-W", "-b", "html", "docs", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """Rates and latencies, as ratios to what the same Postgres does without us."""
    install(session, "tests", extras="[fast]")
    run(session, "python", "-m", "bench", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Runners under faults for a while, and books that must balance: `-- --minutes 20 --seed 7`."""
    install(session, "tests")
    run(session, "python", "-m", "soak", *session.posargs)
