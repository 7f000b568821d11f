"""How far the work is: bars on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Show = Callable[[int, int], None]


@contextmanager
def progress(exports: int, stations: int) -> Iterator[Show]:
    """Gives what shows how many exports are done, and how many stations are in them."""
    console = Console()
    if not console.is_terminal:
        yield _lines(exports, stations)
        return
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks = bars.add_task("exports", total=exports), bars.add_task("stations", total=stations)

        def show(*done: int) -> None:
            for task, completed in zip(tasks, done, strict=True):
                bars.update(task, completed=completed)

        yield show


def _lines(exports: int, stations: int) -> Show:
    tenth = 0

    def show(exports_done: int, stations_done: int) -> None:
        nonlocal tenth
        if (reached := 10 * exports_done // exports) > tenth:
            tenth = reached
            print(f"{exports_done} of {exports} exports, {stations_done} of {stations} stations", flush=True)

    return show


class BriefLog(logging.Handler):
    """What is logged, a line each: without the traceback, which is kept with the job."""

    def emit(self, record: logging.LogRecord) -> None:
        error = f": {record.exc_info[1]!r}" if record.exc_info else ""
        print(f"{record.getMessage()}{error}", file=sys.stderr)
