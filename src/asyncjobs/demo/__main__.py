"""`python -m asyncjobs.demo`."""

from __future__ import annotations

import sys

import click

from asyncjobs.demo import run


@click.command()
@click.option("--once", is_flag=True, help="End when the work is done and checked.")
@click.option(
    "--break", "spoil", metavar="CODE", help="Spoil the export of one country, such as IS: it must fail."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The web server's port; any that is free."
)
def main(*, once: bool, spoil: str | None, port: int) -> None:
    """Export real airfields, a job per country, in a web application with a Postgres of its own."""
    sys.exit(run(once=once, spoil=spoil, port=port))


if __name__ == "__main__":
    main(prog_name="python -m asyncjobs.demo")
