"""`clear`: a clean slate."""

from __future__ import annotations

from collections.abc import Sequence

import click

from asyncjobs._model.words import counted
from asyncjobs._store.clearing import clear_finished, clear_jobs
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, visible, with_output
from asyncjobs.cli.target import database, find_jobs, place_of, within


@click.command(
    epilog=examples(
        "clear myapp.main:jobs --queue bulk",
        "clear myapp.main:jobs --all --finished --yes",
    ),
)
@click.argument("app", required=False)
@database
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only these queues; repeatable.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only these kinds, by any ending; repeatable."
)
@click.option("--all", "everything", is_flag=True, help="Of every queue and kind.")
@click.option("--finished", is_flag=True, help="Also those that are final, which are the history.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_output
def clear(
    *,
    app: str | None,
    dsn: str | None,
    schema: str | None,
    queues: Sequence[str],
    kinds: Sequence[str],
    everything: bool,
    finished: bool,
    yes: bool,
    output: Output,
) -> None:
    """Delete the jobs that wait.

    They are gone, and nothing tells of them any more; `cancel` keeps them as cancelled. What runs is left alone.
    """
    if not (queues or kinds or everything):
        raise click.UsageError("which jobs? Say --queue, --kind, or --all")
    jobs = find_jobs(app, dsn, schema)
    if not yes:
        what = f" of {', '.join([*queues, *kinds])}" if queues or kinds else ""
        whole = ", and all that are final" if finished else ""
        question = f"delete all jobs{what} that wait{whole}, in {place_of(jobs)}?"
        click.confirm(visible(question), abort=True, err=True)

    async def do() -> int:
        count = 0
        for delete in (clear_jobs, clear_finished) if finished else (clear_jobs,):
            while went := await jobs.ask(delete, queues or None, kinds or None):
                count += went
        return count

    count = within(jobs, do)
    output.data({"deleted": count})
    output.text(f"deleted {counted(count, 'job')}")
