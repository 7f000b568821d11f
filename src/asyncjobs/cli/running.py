"""`run` and `work-off`: a runner of its own process.

The first SIGINT or SIGTERM stops claiming and lets running jobs end, within the shutdown timeout of the Jobs; the second
cancels them at once. What has not ended goes back, to be run again by another.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import attrs
import click

from asyncjobs._app import Jobs
from asyncjobs._bus.publisher import DUE
from asyncjobs._define.registry import defined_kinds
from asyncjobs._engine.slots import EVERY_QUEUE
from asyncjobs._keeper.keeper import version_of_asyncjobs
from asyncjobs._model.words import counted
from asyncjobs.cli.ending import end_in_time
from asyncjobs.cli.exits import Exit, Refused
from asyncjobs.cli.helping import examples
from asyncjobs.cli.serving import serve, with_serving
from asyncjobs.cli.target import check_database, find_app

logger = logging.getLogger("asyncjobs")


@click.command(
    epilog=examples(
        "run myapp.main:jobs",
        "run myapp.main:jobs --queues exports,mail --slots 50",
        "run myapp.main:jobs --queues exports:4,mail:20",
        "run myapp.main:jobs --pool exports,mail:2 --pool '*:4' --max-priority 10",
        "run myapp.main:jobs --slots 10,30,50,any,any,any",
    ),
)
@click.argument("app", required=False)
@with_serving
@click.option(
    "--exit-when-empty", "--exit-on-complete", is_flag=True, help="Exit when nothing is due: as work-off."
)
def run(app: str | None, exit_when_empty: bool, **given: Any) -> None:
    """Run the jobs of APP until told to stop.

    Without options, the queues and slots are those of your Jobs. It starts also while Postgres is down, and runs jobs as
    soon as it is there.

    SIGTERM or Ctrl-C: claim nothing more and let running jobs end, within the shutdown timeout of your Jobs. Once more:
    cancel them now. What has not ended is handed back, without costing an attempt.
    """
    if exit_when_empty:
        _work_off(app, given)
    else:
        jobs = find_app(app)
        anyio.run(_run, jobs, serve(**given), anyio.sleep_forever)


@click.command(
    "work-off",
    epilog=examples(
        "work-off myapp.main:jobs",
        "work-off myapp.main:jobs --queues exports",
    ),
)
@click.argument("app", required=False)
@with_serving
def work_off(app: str | None, **given: Any) -> None:
    """Run the jobs of APP that are due, then exit.

    Jobs that are enqueued meanwhile are run too; those due later, and retries, are left for later. Failed attempts are
    logged, and do not change the exit code.
    """
    _work_off(app, given)


def _work_off(app: str | None, given: dict[str, Any]) -> None:
    jobs = find_app(app)

    async def do() -> None:
        await check_database(jobs)
        await jobs.work_off()

    stopped_by = anyio.run(_run, jobs, serve(**given), do)
    if stopped_by is not None:
        raise Refused(f"stopped by {stopped_by.name} before everything due had run", Exit.FAILED)


async def _run(
    jobs: Jobs, given: Mapping[str, Any], do: Callable[[], Awaitable[None]]
) -> signal.Signals | None:
    """Run jobs while *do* does, or until a signal: which."""
    stop = _Stop(jobs)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop.hear, signals)
            async with jobs.running(**given, standalone=True):
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
    kinds = defined_kinds() - {DUE}  # everybody has that one
    assert jobs._supervisor is not None
    pools = jobs._supervisor.runner._pools
    logger.info(
        "running %s of schema %r in %s; asyncjobs %s",
        counted(len(kinds), "kind of jobs"),
        jobs.schema,
        ", ".join(str(pool).strip("<>") for pool in pools),
        version_of_asyncjobs(),
    )
    for queue in sorted({queue for pool in pools for queue in pool.queues if queue != EVERY_QUEUE}):
        if doubt := jobs.doubt_queue(queue):
            logger.warning("%s", doubt)
    if jobs.registry.is_weighted:
        logger.info(
            "queues, the first first: %s",
            ", ".join(f"{queue.name} ({queue.weight})" for queue in jobs.registry),
        )
    if not kinds:
        logger.warning(
            "no job is defined here; the module of your Jobs must import the modules that define jobs"
        )
