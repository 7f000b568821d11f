"""`run` and `work-off`: a runner of its own process.

The first SIGINT or SIGTERM stops claiming and lets running jobs end, within the shutdown timeout of the Jobs; the second
cancels them at once. What has not ended goes back, to be run again by another.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import anyio
import attrs
import click

from asyncjobs._app import Jobs
from asyncjobs._define.registry import known_kinds
from asyncjobs.cli.ending import end_in_time
from asyncjobs.cli.exits import Exit, Refused
from asyncjobs.cli.helping import examples
from asyncjobs.cli.logs import log_to_stderr
from asyncjobs.cli.target import check_database, find_app
from asyncjobs.cli.words import QueuesWord, merge_queues

logger = logging.getLogger("asyncjobs")

_queues = click.option(
    "--queues",
    type=QueuesWord(),
    multiple=True,
    envvar="ASYNCJOBS_QUEUES",
    metavar="NAME[:SLOTS],...",
    help="Only these queues: exports,mail, or exports:4,mail with slots of its own for one. [env ASYNCJOBS_QUEUES]",
)
_slots = click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    envvar="ASYNCJOBS_SLOTS",
    help="Jobs at a time, shared by the queues without a number of their own. [env ASYNCJOBS_SLOTS]",
)
_verbose = click.option("-v", "--verbose", is_flag=True, help="Log more.")


@click.command(
    epilog=examples(
        "run myapp.main:jobs",
        "run myapp.main:jobs --queues exports,mail --slots 50",
        "run myapp.main:jobs --queues exports:4,mail:20",
    ),
)
@click.argument("app", required=False)
@_queues
@_slots
@_verbose
def run(app: str | None, queues: Iterable[Any], slots: int | None, verbose: bool) -> None:
    """Run the jobs of APP until told to stop.

    Without options, the queues and slots are those of your Jobs. It starts also while Postgres is down, and runs jobs as
    soon as it is there.

    SIGTERM or Ctrl-C: claim nothing more and let running jobs end, within the shutdown timeout of your Jobs. Once more:
    cancel them now. What has not ended is handed back, without costing an attempt.
    """
    jobs = find_app(app)
    log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    anyio.run(_run, jobs, merge_queues(queues), slots, anyio.sleep_forever)


@click.command(
    "work-off",
    epilog=examples(
        "work-off myapp.main:jobs",
        "work-off myapp.main:jobs --queues exports",
    ),
)
@click.argument("app", required=False)
@_queues
@_slots
@_verbose
def work_off(app: str | None, queues: Iterable[Any], slots: int | None, verbose: bool) -> None:
    """Run the jobs of APP that are due, then exit.

    Jobs that are enqueued meanwhile are run too; those due later, and retries, are left for later. Failed attempts are
    logged, and do not change the exit code.
    """
    jobs = find_app(app)
    log_to_stderr(logging.DEBUG if verbose else logging.INFO)

    async def do() -> None:
        await check_database(jobs)
        await jobs.work_off()

    stopped_by = anyio.run(_run, jobs, merge_queues(queues), slots, do)
    if stopped_by is not None:
        raise Refused(f"stopped by {stopped_by.name} before everything due had run", Exit.FAILED)


async def _run(
    jobs: Jobs, queues: Mapping[str, int | None] | None, slots: int | None, do: Callable[[], Awaitable[None]]
) -> signal.Signals | None:
    """Run jobs while *do* does, or until a signal: which."""
    stop = _Stop(jobs)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop.hear, signals)
            async with jobs.running(queues=queues, slots=slots, standalone=True):
                _say_hello(jobs)
                with stop.scope:
                    await do()
            tasks.cancel_scope.cancel()
    logger.info("stopped")
    end_in_time(Exit.OK if stop.signal is None or do is anyio.sleep_forever else Exit.FAILED)
    return stop.signal


@attrs.define
class _Stop:
    """What signals do."""

    jobs: Jobs
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    signal: signal.Signals | None = None

    async def hear(self, signals: Any) -> None:
        async for number in signals:
            if self.signal is None:
                self.signal = number
                logger.info(
                    "%s: claiming nothing more, running jobs may end; once more cancels them", number.name
                )
                self.scope.cancel()
            else:
                logger.warning("%s again: cancelling what runs, it goes back to be run again", number.name)
                self.jobs.hurry()


def _say_hello(jobs: Jobs) -> None:
    kinds = known_kinds()
    assert jobs._supervisor is not None
    pools = jobs._supervisor.runner._pools
    logger.info(
        "running %s kinds of jobs of schema %r in %s",
        len(kinds),
        jobs.schema,
        ", ".join(str(pool).strip("<>") for pool in pools),
    )
    if not kinds:
        logger.warning(
            "no job is defined here; the module of your Jobs must import the modules that define jobs"
        )
