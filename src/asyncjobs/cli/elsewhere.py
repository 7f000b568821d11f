"""Verbs and flags of other systems' commands, for who types them here first."""

from __future__ import annotations

import click

VERBS = {
    "beat": "not needed: wherever jobs run, schedules are looked after; `schedules` shows them",
    "dead": "`list --state failed`",
    "defer": "`enqueue`",
    "healthchecks": "`check`",
    "inspect": "`list --state running`",
    "purge": "`clear`, which deletes what waits",
    "queues": "`count`",
    "revoke": "`cancel`",
    "schema": "`migrate`",
    "start": "`run`",
    "stats": "`count`",
    "status": "`count`",
    "work": "`run`",
    "worker": "`run`",
    "workoff": "`work-off`",
}

FLAGS = {
    "--burst": "--exit-when-empty",
    "-c": "--slots",
    "--concurrency": "--slots",
    "--loglevel": "--log-level",
    "-Q": "--queues",
    "--queue-name": "--queues",
    "--worker-count": "--slots",
}


def check_verb(name: str) -> None:
    """Refuse another system's verb, and say ours."""
    if name in VERBS:
        raise click.UsageError(f"No such command {name!r}: it is {VERBS[name]}")


def naming_ours(error: click.NoSuchOption) -> click.NoSuchOption:
    """The error of another system's flag, with ours."""
    theirs = error.option_name
    if theirs not in FLAGS:
        return error
    return click.NoSuchOption(theirs, f"No such option {theirs!r}: it is {FLAGS[theirs]}", ctx=error.ctx)
