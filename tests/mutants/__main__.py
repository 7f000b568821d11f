"""Take a feature out of the product, line by line, and see that the tests of that line notice, and no others.

`python -m tests.mutants` takes out one after the other, two at a time; `python -m tests.mutants D8 Q3` only those; with `--own` only
the tests of that very line are run, which is quick. First nothing is taken out, and everything must be green. What is red of other
lines is run once more, alone: only what is red twice has noticed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from tests.mutants import notes
from tests.mutants.lines import ROOT, Line, copy_of_source, lines, numbers, seed_tests
from tests.postgres import cluster_for_tests

AT_A_TIME = 2
LONGEST_TEST = 30  #: seconds; one that hangs is red
LONGEST_RUN = 1200.0
DEADLINE = 6  #: seconds a test waits for a fact, which is usually there at once

NOTHING = "nothing"


@attrs.frozen
class Found:
    """What became of a mutant."""

    number: str
    own: Sequence[str]  #: tests of its line that noticed
    others: Sequence[str]  #: tests of other lines that noticed, and are not declared
    tests: int
    seconds: float
    words: str  #: of the first that noticed

    @property
    def is_well(self) -> bool:
        return not self.others and bool(self.own) == (self.number != NOTHING)

    def __str__(self) -> str:
        if self.number == NOTHING:
            became = "green" if self.is_well else "NOT GREEN"
        else:
            became = "red" if self.own else "NOT NOTICED"
        line = f"{self.number:>7}  {became:<11}  {self.seconds:4.0f} s, {self.tests} tests"
        first = f"\n         by {self.own[0].rpartition('/')[2]}: {self.words[:160]}" if self.own else ""
        return line + first + "".join(f"\n         ALSO RED: {each}" for each in self.others)


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    asked.add_argument("numbers", nargs="*", metavar="NUMBER", help="D8, Q3, …; all unless said")
    asked.add_argument("--own", action="store_true", help="only the tests of that very line")
    given = asked.parse_args()
    if wrong := [each for each in given.numbers if each not in lines()]:
        asked.error(f"{', '.join(wrong)}: there are P1 to P7, T1 to T14, D1 to D17, Q1 to Q20")
    chosen: list[Line | None] = [lines()[each] for each in given.numbers or numbers()]
    began = time.monotonic()
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="asyncjobs-mutants-") as folder,
        cluster_for_tests() as cluster,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):
        os.environ["ASYNCJOBS_TEST_DSN"] = cluster.dsn()
        work = chosen if given.numbers else [None, *chosen]
        for each in pool.map(partial(run, folder=Path(folder), own=given.own), work):
            found.append(each)
            print(each, flush=True)
    bad = [each.number for each in found if not each.is_well]
    print(
        f"{len(found) - len(bad)} of {len(found)} are as they should be, in {time.monotonic() - began:.0f} s"
    )
    if bad:
        sys.exit(f"not as they should be: {', '.join(bad)}")


def run(line: Line | None, *, folder: Path, own: bool) -> Found:
    """Take out what *line* is about, and see who notices."""
    began = time.monotonic()
    number = NOTHING if line is None else line.number
    tree = copy_of_source(folder / number)
    if line is not None:
        line.take_out(tree)
    by_number = seed_tests()
    wanted = (
        by_number.get(number, [])
        if own and line
        else [each for tests in by_number.values() for each in tests]
    )
    files = sorted({f"tests/{test.partition('::')[0]}" for test in wanted})
    tests = [f"tests/{test}" for test in wanted] if own and line else files
    found = run_on(tree, folder / number / "notes", number, tests)
    red = {name: each for name, each in found.items() if each["red"]}
    mine = [name for name, each in red.items() if number in each["numbers"]]
    expected = {number, *(line.also if line else ())}
    others = [name for name, each in red.items() if not expected & {*each["numbers"]}]
    again = run_on(tree, folder / number / "again", "", others) if others else {}
    return Found(
        number=number,
        own=mine,
        others=[
            f"{name} {each['numbers']}: {each['words'][:160]}" for name, each in again.items() if each["red"]
        ],
        tests=len(found),
        seconds=time.monotonic() - began,
        words=red[mine[0]]["words"] if mine else "",
    )


def run_on(tree: Path, noted: Path, number: str, tests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Run *tests* on the source at *tree*: what became of each. One that hangs ends its process; the rest run in another."""
    env = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "MUTANT_TREE": str(tree),
        "MUTANT_NOTES": str(noted),
        "MUTANT_NUMBER": number,
        "ASYNCJOBS_TEST_DEADLINE": str(DEADLINE),
    }
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.watching"),
        *(
            "-m",
            "seed and not faults",
            "-o",
            f"timeout={LONGEST_TEST}",
            "-o",
            f"cache_dir={noted.parent / 'cache'}",
            *tests,
        ),
    ]
    deadline = time.monotonic() + LONGEST_RUN
    while (left := deadline - time.monotonic()) > 0:
        with noted.with_suffix(".log").open("ab") as log:
            try:
                code = subprocess.run(
                    command, cwd=ROOT, env=env, stdout=log, stderr=log, check=False, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        hung = notes.hung(noted)
        for name, each in hung.items():
            notes.write(
                noted, ended=name, numbers=each["numbers"], red=True, words="it hung, or ended its process"
            )
        if not hung:
            if code not in (0, 1, 5):  # all well, some failed, none left
                words = f"pytest ended with {code}: {noted.with_suffix('.log').read_text('utf-8', 'replace')[-2000:]}"
                notes.write(noted, ended="the run", numbers=["no line"], red=True, words=words)
                print(words, file=sys.stderr)
            break
    return notes.ended(noted)


if __name__ == "__main__":
    main()
