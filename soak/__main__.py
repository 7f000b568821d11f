"""`python -m soak`."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import click

from soak import checks, report, run
from soak.record import load
from soak.schedule import WEIGHTS


@click.command(help="Run jobs under faults, then check that nothing was lost and nothing happened twice.")
@click.option(
    "--minutes", default=1.0, show_default=True, help="How long there is load and harm; draining comes after."
)
@click.option("--seed", default=1, show_default=True, help="Of the faults and of the jobs.")
@click.option("--processes", default=4, show_default=True, help="Runners.")
@click.option("--rate", default=100.0, show_default=True, help="Jobs enqueued in a second.")
@click.option("--every", default=3.0, show_default=True, help="Seconds between faults, on average.")
@click.option(
    "--pace",
    default=1.0,
    show_default=True,
    help="Factor of the protocol's times: 0.2 is five times as fast.",
)
@click.option("--faults", help=f"Only these, with commas: {', '.join(WEIGHTS)}.")
@click.option(
    "--poison/--no-poison", default=True, show_default=True, help="Jobs that take their process down."
)
@click.option(
    "--report", "report_to", type=click.Path(dir_okay=False, path_type=Path), help="Write a page there."
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the histories there; else they are kept when something is wrong.",
)
@click.option(
    "--check", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Only check this folder."
)
def main(
    minutes: float, seed: int, processes: int, rate: float, every: float, pace: float, faults: str | None,
    poison: bool, report_to: Path | None, folder: Path | None, check: Path | None,
) -> None:  # fmt: skip
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # a network that is cut complains
    kept = True
    if check is not None:
        record = load(check)
    else:
        kinds = frozenset(faults.split(",")) if faults is not None else None
        if kinds is not None and (unknown := kinds - WEIGHTS.keys() - {""}):
            raise click.UsageError(f"no such fault: {', '.join(unknown)}")
        kept = folder is not None
        folder = folder or Path(tempfile.mkdtemp(prefix="asyncjobs-soak-"))
        plan = run.Plan(minutes, seed, processes, rate, every, pace, kinds, poison)
        print(f"seed {seed}, histories in {folder}", flush=True)
        record = asyncio.run(run.soak(plan, folder))
    violations = checks.check(record)
    print(report.summary(record, violations))
    if report_to is not None:
        report_to.write_text(report.page(record, violations))
    if folder is not None and not kept and not any(violations.values()):
        shutil.rmtree(folder)
    sys.exit(1 if any(violations.values()) else 0)


main()
