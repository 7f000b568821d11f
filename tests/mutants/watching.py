"""In the run of a mutant: a pytest plugin that runs the tests of the seeds, and writes down of each when it begins and how it ends.

It is told by the environment: MUTANT_TREE, the source that must be imported; MUTANT_NOTES, the file to write; MUTANT_NUMBER, the
line whose tests need only one to notice: after it, the others of that line are left out.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.mutants.notes import ended, write

TREE = Path(os.environ["MUTANT_TREE"])
NOTES = Path(os.environ["MUTANT_NOTES"])
NUMBER = os.environ["MUTANT_NUMBER"]

FAILED = pytest.StashKey[list[str]]()
NOTICED = pytest.StashKey[bool]()


def numbers_of(item: pytest.Item) -> list[str]:
    return [number for mark in item.iter_markers("seed") for number in mark.args]


def pytest_configure(config: pytest.Config) -> None:
    import asyncjobs

    if not Path(str(asyncjobs.__file__)).is_relative_to(TREE):
        raise pytest.UsageError(f"asyncjobs was imported from {asyncjobs.__file__}, and not from {TREE}")
    config.stash[NOTICED] = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    over = ended(NOTES)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in over])
    items[:] = [item for item in items if item.nodeid not in over]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    numbers, failed = numbers_of(item), item.stash.setdefault(FAILED, [])
    is_own = NUMBER in numbers
    if is_own and item.config.stash[NOTICED]:
        item.add_marker(pytest.mark.skip(reason="another test of its line has noticed"))
    else:
        write(NOTES, began=item.nodeid, numbers=numbers)
    try:
        return (yield)
    finally:
        write(NOTES, ended=item.nodeid, numbers=numbers, red=bool(failed), words=" ".join(failed)[:300])
        if is_own and failed:
            item.config.stash[NOTICED] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        words = f"{report.when}: {getattr(crash, 'message', report.longrepr)}".replace("\n", " ")
        item.stash[FAILED].append(words)
    return report
