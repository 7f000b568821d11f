"""`demo`: see it work, on a Postgres brought along."""

from __future__ import annotations

import sys

import click

from asyncjobs.cli.helping import examples


@click.command(
    epilog=examples(
        "demo",
        "demo --once",
        "demo --once --break IS",
    )
)
@click.option(
    "--once", is_flag=True, help="Until the work is done; check what came of it, print a summary, exit."
)
@click.option(
    "--break", "spoil", metavar="COUNTRY", help="Spoil the export of one country (IS), to see it fail."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The web server's port; one that is free, if not given.",
)
def demo(once: bool, spoil: str | None, port: int) -> None:
    """See it work, on a Postgres brought along.

    A real web application with real data: every country's airfields are exported, each export a job that commits with
    the request that asked for it.
    """
    from asyncjobs.demo import run as play  # noqa: PLC0415 -- what it needs is an extra

    sys.exit(play(once=once, spoil=spoil, port=port))
