"""The command and its verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from asyncjobs._keeper.keeper import version_of_asyncjobs
from asyncjobs.cli import (
    checking,
    clearing,
    demonstrating,
    elsewhere,
    enqueueing,
    limiting,
    looking,
    migrating,
    performing,
    running,
    scheduling,
    steering,
)
from asyncjobs.cli.exits import Exit, refusal
from asyncjobs.cli.helping import EXIT_CODES, examples


class Verbs(click.Group):
    """Verbs in the order of a first acquaintance; what they raise as a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            elsewhere.check_verb(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise elsewhere.naming_ours(error) from error
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(Exit.INTERRUPTED)
        except Exception as error:
            refused = refusal(error)
            if refused is None:
                raise
            raise refused from error


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "migrate myapp.main:jobs",
        "run myapp.main:jobs --queues exports,mail --slots 50",
        "enqueue myapp.main:jobs ExportStations tenant=acme",
        "list myapp.main:jobs --state failed",
    )
    + "\n\n"
    + EXIT_CODES,
)
@click.version_option(version_of_asyncjobs(), prog_name="asyncjobs")
def asyncjobs() -> None:
    """Background jobs on the Postgres your application already has.

    APP names your Jobs, as module:attribute (myapp.main:jobs), or a function without arguments that returns it. Left out,
    it is taken from ASYNCJOBS_APP, else from pyproject.toml: [tool.asyncjobs] app = "myapp.main:jobs". Verbs that need
    none of your code take --dsn (or ASYNCJOBS_DSN) instead.
    """


for verb in (
    demonstrating.demo,
    migrating.migrate,
    running.run,
    running.work_off,
    enqueueing.enqueue,
    performing.perform,
    looking.list_,
    looking.show,
    looking.count,
    limiting.limits,
    limiting.locks,
    steering.retry,
    steering.cancel,
    steering.pause,
    steering.resume,
    scheduling.schedules,
    clearing.clear,
    checking.check,
):
    asyncjobs.add_command(verb)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command, and exit."""
    as_module = sys.argv[0].endswith("__main__.py")
    asyncjobs.main(args, prog_name="python -m asyncjobs" if as_module else None)
