"""`retry` and `cancel` of many jobs: chosen by what they are, not by their ids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from asyncjobs._app import Jobs
from asyncjobs._app.steering import CANCELLED, RETRIED
from asyncjobs._model.states import JobState
from asyncjobs._model.words import counted
from asyncjobs.cli.output import Output, visible
from asyncjobs.cli.target import find_jobs, place_of, split_app, within

Verb = Callable[..., None]


def _or_chosen(allowed: Iterable[JobState], many: Verb) -> Callable[[Verb], Verb]:
    """Give a verb that takes ids the options that choose jobs, too: with one of them, *many* is done instead."""

    def decorate(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def either(
            *,
            words: Sequence[str],
            dsn: str | None,
            schema: str | None,
            output: Output,
            yes: bool,
            states: Sequence[str],
            queues: Sequence[str],
            kinds: Sequence[str],
            tags: Sequence[str],
            **more: Any,
        ) -> None:
            chosen = {"states": states, "queues": queues, "kinds": kinds, "tags": tags}
            if not any(chosen.values()):
                verb(words=words, dsn=dsn, schema=schema, output=output, **more)
                return
            app, ids = split_app(words, sure=True)
            if ids or any(more.values()):
                raise click.UsageError(
                    "name jobs by their ids, or choose them by --state, --queue, --kind and --tag"
                )
            given = {name: list(values) for name, values in chosen.items() if values}
            many(find_jobs(app, dsn, schema), given, output, yes)

        options = [
            click.option(
                "--state",
                "states",
                multiple=True,
                type=click.Choice([state.value for state in allowed]),
                help="All in these states; repeatable.",
            ),
            click.option(
                "--queue", "queues", multiple=True, metavar="NAME", help="All in these queues; repeatable."
            ),
            click.option(
                "--kind",
                "kinds",
                multiple=True,
                metavar="KIND",
                help="All of these kinds, by any ending; repeatable.",
            ),
            click.option(
                "--tag", "tags", multiple=True, metavar="TAG", help="All with this tag; repeatable: with all."
            ),
            click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        ]
        return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), either)

    return decorate


def _retry_many(jobs: Jobs, given: dict[str, Any], output: Output, yes: bool) -> None:
    given.setdefault("states", [JobState.FAILED.value])
    _confirm("retry", given, jobs, yes)
    again = within(jobs, lambda: jobs.retry_many(**given))
    output.data({"retried": again})
    output.text(f"{counted(again, 'job')} run{'s' if again == 1 else ''} again")


def _cancel_many(jobs: Jobs, given: dict[str, Any], output: Output, yes: bool) -> None:
    if given.keys() == {"states"}:
        raise click.UsageError("which jobs? Say --queue, --kind or --tag, too")
    _confirm("cancel", given, jobs, yes)
    answer = within(jobs, lambda: jobs.cancel_many(**given))
    output.data(answer)
    runners = counted(answer["requested"], "job")
    asked = f"; the runners of {runners} are asked to stop" if answer["requested"] else ""
    output.text(f"cancelled {counted(answer['cancelled'], 'job')}{asked}")


def _confirm(verb: str, given: dict[str, Any], jobs: Jobs, yes: bool) -> None:
    if not yes:
        which = ", ".join(f"{name} {' or '.join(words)}" for name, words in given.items())
        click.confirm(visible(f"{verb} all jobs with {which}, in {place_of(jobs)}?"), abort=True, err=True)


or_retry_chosen = _or_chosen(RETRIED, _retry_many)
or_cancel_chosen = _or_chosen(CANCELLED, _cancel_many)
