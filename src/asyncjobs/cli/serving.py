"""What `run` and `work-off` take: which queues and priorities, in how many slots, under which name, and how they log."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from asyncjobs.cli.exits import Exit, Refused
from asyncjobs.cli.logs import FORMAT, log_to_stderr
from asyncjobs.cli.words import DurationWord, PoolWord, QueuesWord, SlotsWord, merge_pools, merge_queues

F = TypeVar("F", bound=Callable[..., Any])

PRIORITY = click.IntRange(-32768, 32767)
LEVELS = ("debug", "info", "warning", "error")

_OPTIONS = (
    click.option(
        "--queues",
        "--queue",
        type=QueuesWord(),
        multiple=True,
        envvar=["ASYNCJOBS_QUEUES", "ASYNCJOBS_QUEUE"],
        metavar="NAME[:SLOTS],...",
        help="Only these queues: exports,mail, or exports:4,mail with slots of its own for one. [env ASYNCJOBS_QUEUES]",
    ),
    click.option(
        "--pool",
        "pools",
        type=PoolWord(),
        multiple=True,
        envvar="ASYNCJOBS_POOLS",
        metavar="NAME,...:SLOTS",
        help="Slots that these queues share: exports,mail:2. * is every queue; repeatable. [env ASYNCJOBS_POOLS]",
    ),
    click.option(
        "-n",
        "--slots",
        type=SlotsWord(),
        envvar="ASYNCJOBS_SLOTS",
        metavar="N|PRIORITIES",
        help="Jobs at a time, shared by the queues without a number of their own; or the least urgent priority each slot "
        "takes: 10,30,50,any,any,any. [env ASYNCJOBS_SLOTS]",
    ),
    click.option(
        "--min-priority",
        type=PRIORITY,
        envvar="ASYNCJOBS_MIN_PRIORITY",
        metavar="N",
        help="No jobs more urgent than this: lower numbers are. [env ASYNCJOBS_MIN_PRIORITY]",
    ),
    click.option(
        "--max-priority",
        type=PRIORITY,
        envvar="ASYNCJOBS_MAX_PRIORITY",
        metavar="N",
        help="No jobs less urgent than this. [env ASYNCJOBS_MAX_PRIORITY]",
    ),
    click.option(
        "--poll",
        type=DurationWord(),
        envvar="ASYNCJOBS_POLL",
        metavar="SECONDS",
        help="How often to look for jobs that no notification told of. [env ASYNCJOBS_POLL]",
    ),
    click.option(
        "--prefix",
        envvar="ASYNCJOBS_PREFIX",
        metavar="TEXT",
        help="Before this runner's name, which is host:pid. [env ASYNCJOBS_PREFIX]",
    ),
    click.option(
        "-i",
        "--identifier",
        envvar="ASYNCJOBS_IDENTIFIER",
        metavar="TEXT",
        help="In this runner's name, instead of the pid. [env ASYNCJOBS_IDENTIFIER]",
    ),
    click.option(
        "--log-level",
        type=click.Choice(LEVELS, case_sensitive=False),
        default="info",
        envvar="ASYNCJOBS_LOG_LEVEL",
        help="What is worth a line. [env ASYNCJOBS_LOG_LEVEL]",
    ),
    click.option(
        "--log-format",
        envvar="ASYNCJOBS_LOG_FORMAT",
        default=FORMAT,
        metavar="FORMAT",
        help="How a line looks, as logging.Formatter takes it. [env ASYNCJOBS_LOG_FORMAT]",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Log more: as --log-level debug."),
)


def with_serving(verb: F) -> F:
    """Give *verb* these options; `serve` makes them out."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


def serve(
    *,
    queues: Any,
    pools: Any,
    slots: Any,
    min_priority: int | None,
    max_priority: int | None,
    poll: float | None,
    prefix: str | None,
    identifier: str | None,
    log_level: str,
    log_format: str,
    verbose: bool,
) -> dict[str, Any]:
    """Set up the log, and say what `Jobs.running` is to be told."""
    try:
        logging.Formatter(log_format)
    except ValueError as error:
        raise Refused(
            f"--log-format {log_format!r} is no format of a log line: {error}", Exit.USAGE
        ) from error
    log_to_stderr(logging.DEBUG if verbose else getattr(logging, log_level.upper()), log_format)
    return {
        "queues": merge_pools(merge_queues(queues), pools),
        "slots": slots,
        "min_priority": min_priority,
        "max_priority": max_priority,
        "poll": poll,
        "name": None if prefix is None and identifier is None else _name(prefix or "", identifier),
    }


def _name(prefix: str, identifier: str | None) -> str:
    return f"{prefix}{socket.gethostname()}:{identifier or os.getpid()}"
