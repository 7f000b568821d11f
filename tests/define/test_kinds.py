"""A kind is where a definition lives, or the name it was given; either way the runner finds it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import attrs
import pytest

from asyncjobs import InvalidDefinition, Jobs, Later, UnknownKind, job
from asyncjobs._define import registry
from tests.kinds import forgotten


@attrs.frozen
class Export(Later):
    async def call(self) -> None: ...

    class Inner(Later):
        async def call(self) -> None: ...


@job
async def send() -> None: ...


def test_a_kind_is_its_module_and_name() -> None:
    """`module:Class`, `module:function`, and nested classes by their path."""
    for kind in (f"{__name__}:Export", f"{__name__}:Export.Inner", f"{__name__}:send"):
        assert registry.find(kind).kind == kind
        assert kind in registry.known_kinds()


def test_any_unambiguous_ending_finds_it() -> None:
    """As people type it: from the right, by whole words."""
    with forgotten():
        for kind in ("shop.exports:Stations", "other.exports:Stations", "shop.mail:send", "daily"):
            job(kind=kind)(lambda: None)
        find = registry.find_by_ending
        assert find("shop.exports:Stations").kind == "shop.exports:Stations"
        assert find("daily").kind == "daily"
        assert find("mail:send").kind == "shop.mail:send"
        assert find("shop.mail:send").kind == "shop.mail:send"
        with pytest.raises(
            UnknownKind, match="could be any of other.exports:Stations, shop.exports:Stations; write more"
        ):
            find("exports:Stations")
        with pytest.raises(UnknownKind, match="could be any of"):
            find("Stations")
        with pytest.raises(UnknownKind):
            find("tations")
        job(kind="Stations")(lambda: None)
        assert find("Stations").kind == "Stations"  # all of it beats any ending


def test_an_unknown_kind_names_the_nearest() -> None:
    """And says what to do."""
    with pytest.raises(
        UnknownKind,
        match=r"no job is defined as '.*:Exprt' in this process; import the module that defines it; did you mean '.*:Export'\?",
    ):
        registry.find(f"{__name__}:Exprt")
    with pytest.raises(UnknownKind, match=r"import the module that defines it$"):
        registry.find("zzz")


def test_two_definitions_of_one_kind_are_refused() -> None:
    """Both are named."""
    with forgotten():

        class First(Later, kind="test_kinds:twice"):
            pass

        with pytest.raises(InvalidDefinition) as refusal:

            class Second(Later, kind="test_kinds:twice"):
                pass

        assert "kind 'test_kinds:twice' is defined twice, as " in str(refusal.value)
        assert ".First and as " in str(refusal.value)
        assert ".Second; name one of them otherwise" in str(refusal.value)
        with pytest.raises(InvalidDefinition, match="is defined twice"):
            job(kind="test_kinds:twice")(test_kinds)
        assert registry.find("test_kinds:twice").home.endswith("First")


def test_kinds() -> None:
    """A function to be decorated."""


def test_a_module_loaded_again_replaces_its_definitions() -> None:
    """As a reload does, and a notebook's cell that runs twice."""
    with forgotten():

        def cell() -> type[Later]:
            class Again(Later, kind="test_kinds:again"):
                pass

            return Again

        first, second = cell(), cell()
        service: Any = registry.find("test_kinds:again")
        assert service.cls is second is not first


async def test_a_named_kind_survives_a_rename(dsn: str) -> None:
    """What was enqueued as `Old` runs as `New`, elsewhere and called otherwise, because the kind is the same."""
    with forgotten():

        @attrs.frozen
        class Old(Later, kind="test_kinds:renamed"):
            tenant: str

            async def call(self) -> str:
                return f"old {self.tenant}"

        async with Jobs(dsn):
            handle = await Old("acme").later("call")

    with forgotten():

        @attrs.frozen
        class New(Later, kind="test_kinds:renamed"):
            tenant: str

            async def call(self) -> str:
                return f"new {self.tenant}"

        async with Jobs(dsn).running() as jobs:
            assert await jobs.handle(handle.id).result(timeout=10) == "new acme"


# A script is the module it would be imported as.

SCRIPT = """
import asyncio, sys
import attrs
from asyncjobs import Jobs, Later, job

@attrs.frozen
class Export(Later):
    tenant: str

    async def call(self) -> str:
        return f"{self.tenant} {__name__}"

@job
async def send(user_id: int) -> str:
    return f"{user_id} {__name__}"

async def main(dsn: str) -> None:
    async with Jobs(dsn):
        for handle in (await Export("acme").later("call"), await send.later(42)):
            print(handle.id, (await handle.job()).kind)

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
"""

RUNNER = """
import asyncio, sys
from asyncjobs import Jobs
import {module}

async def main(dsn: str, *ids: str) -> None:
    async with Jobs(dsn).running() as jobs:
        for id in ids:
            print(await jobs.handle(int(id)).result(timeout=20))

asyncio.run(main(*sys.argv[1:]))
"""


def python(*args: str, at: Path) -> list[str]:
    """What a fresh Python printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(at), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "error", *args],
        cwd=at,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("file", "start", "module"),
    [
        ("shop.py", ["shop.py"], "shop"),
        ("shop.py", ["-m", "shop"], "shop"),
        ("pack/__init__.py", ["-m", "pack.shop"], "pack.shop"),
        ("pack/__init__.py", ["-m", "pack"], "pack.__main__"),
    ],
)
async def test_a_scripts_jobs_are_found_by_who_imports_it(
    dsn: str, tmp_path: Path, file: str, start: list[str], module: str
) -> None:
    """It enqueues as `__main__`; another process, where it is a module, runs what it enqueued."""
    written = tmp_path / file
    written.parent.mkdir(exist_ok=True)
    for each in (written, written.with_name("shop.py"), written.with_name("__main__.py")):
        each.write_text(SCRIPT if each.stem == module.rpartition(".")[2] else "")
    enqueued = [line.split() for line in python(*start, dsn, at=tmp_path)]
    assert [kind for _, kind in enqueued] == [f"{module}:Export", f"{module}:send"]
    (tmp_path / "run.py").write_text(RUNNER.format(module=module))
    answers = python("run.py", dsn, *(job_id for job_id, _ in enqueued), at=tmp_path)
    assert answers == [f"acme {module}", f"42 {module}"]


def test_a_script_may_be_imported_by_the_server_it_starts(tmp_path: Path) -> None:
    """`uvicorn.run("app:app")` in app.py imports app.py once more: the same definitions, not others of the same kind."""
    (tmp_path / "app.py").write_text(
        SCRIPT.partition("if __name__")[0]
        + textwrap.dedent("""
        if __name__ == "__main__":
            import app
            from asyncjobs._define import registry
            assert registry.find("app:Export").cls is app.Export
            print(*sorted(kind for kind in registry.known_kinds() if not kind.startswith('asyncjobs:')))
        """)
    )
    assert python("app.py", at=tmp_path) == ["app:Export app:send"]


def test_a_spawned_process_knows_the_script_by_the_same_name(tmp_path: Path) -> None:
    """There it is `__mp_main__`; servers that start workers and reload do so."""
    (tmp_path / "app.py").write_text(
        SCRIPT.partition("if __name__")[0]
        + textwrap.dedent("""
        def child():
            from asyncjobs._define import registry
            print(__name__, *sorted(kind for kind in registry.known_kinds() if not kind.startswith('asyncjobs:')), flush=True)

        if __name__ == "__main__":
            import multiprocessing
            process = multiprocessing.get_context("spawn").Process(target=child)
            process.start()
            process.join()
        """)
    )
    assert python("app.py", at=tmp_path) == ["__mp_main__ app:Export app:send"]
    assert python("-m", "app", at=tmp_path) == ["__mp_main__ app:Export app:send"]


def test_without_a_file_the_kind_is_main(tmp_path: Path) -> None:
    """In a shell there is no module anybody else could import, and the same process still finds its own."""
    code = "from asyncjobs import Later\nclass A(Later): ...\nfrom asyncjobs._define import registry\nprint(*(kind for kind in registry.known_kinds() if not kind.startswith('asyncjobs:')))"
    assert python("-c", code, at=tmp_path) == ["__main__:A"]
