"""What verbs say: a few lines for people, or with --json one JSON value for machines and nothing else on stdout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO, TypeVar

import attrs
import click

from asyncjobs._model.job import Job

F = TypeVar("F", bound=Callable[..., Any])

# What a terminal obeys or a line break forges: C0 but tab and line feed, C1, line separators, and what turns the direction
# of writing.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """*text*, which may be a job's, as a terminal can be trusted with: control characters are written out."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_line(text: str) -> str:
    """As `visible`, and in one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


class Output:
    """Where a verb says what it has to say."""

    def __init__(self, *, as_json: bool) -> None:
        self._machine: TextIO | None = None
        if as_json:
            # Whatever the user's code prints, and the programs it starts, must not come between: it goes to stderr.
            sys.stdout.flush()
            self._machine = os.fdopen(os.dup(1), "w", encoding="utf-8")
            os.dup2(2, 1)

    def data(self, value: Any) -> None:
        """The one value machines read. People do not see it."""
        if self._machine is not None:
            self._machine.write(json.dumps(value, default=_plain) + "\n")
            self._machine.flush()

    def text(self, line: str) -> None:
        """A line for people."""
        if self._machine is None:
            click.echo(visible(line))

    def note(self, line: str) -> None:
        """A line for people that is not what was asked for: on stderr."""
        if self._machine is None:
            click.echo(visible(line), err=True)

    def result(self, result: Any) -> None:
        """What a job returned, for people: text as it is, nothing for None, else JSON."""
        if result is not None:
            self.text(
                result if isinstance(result, str) else json.dumps(result, default=_plain, ensure_ascii=False)
            )

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people: rich's on a terminal where it is installed, else plain columns."""
        if self._machine is not None:
            return
        rows = [[visible_line(cell) for cell in row] for row in rows]
        if sys.stdout.isatty() and importlib.util.find_spec("rich"):
            _rich_table(headings, rows)
            return
        lines = [headings, *rows]
        widths = [max(len(line[nth]) for line in lines) for nth in range(len(headings))]
        for line in lines:
            click.echo(
                "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            )


def with_output(verb: F) -> F:
    """Give *verb* the option --json, as the parameter `output`."""
    return click.option(
        "--json",
        "output",
        is_flag=True,
        is_eager=True,
        callback=lambda _, __, value: Output(as_json=value),
        help="One JSON value on stdout, for machines.",
    )(verb)


def job_data(job: Job) -> dict[str, Any]:
    """A job, for machines: all that is known of it, under the names of the documentation."""
    return attrs.asdict(job)


def call_of(job: Job) -> str:
    """What the job calls: its kind, and the method."""
    return f"{job.kind}.{job.method}" if job.method else job.kind


def when(job: Job, now: datetime | None = None) -> str:
    """When it happened or will: finished, started, else due."""
    moment = job.finished_at or (job.started_at if job.state == "running" else None) or job.scheduled_at
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    span = _span(abs(seconds))
    return f"in {span}" if seconds > 0.5 else f"{span} ago"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _rich_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 -- not among the core dependencies
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
