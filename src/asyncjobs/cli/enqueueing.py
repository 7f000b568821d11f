"""`enqueue`: a job from the shell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import attrs
import click

from asyncjobs._app import Jobs
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._model.job import Job
from asyncjobs._model.states import JobState
from asyncjobs.cli.calls import read_call
from asyncjobs.cli.exits import Refused
from asyncjobs.cli.helping import examples
from asyncjobs.cli.output import Output, call_of, job_data, visible, with_output
from asyncjobs.cli.target import find_app, split_app, within
from asyncjobs.cli.waiting import waits_for
from asyncjobs.cli.words import DurationWord, MomentWord, is_input
from asyncjobs.errors import JobNotFound, JobsError

A_MOMENT = 2.0  #: seconds after which `--wait` says what the job waits for


def split_call(words: Sequence[str]) -> tuple[str | None, str, Sequence[str]]:
    """APP where there is one, the job, its inputs. Raises click.UsageError."""
    names = [word for word in words if not is_input(word)]
    inputs = [word for word in words if is_input(word)]
    app, rest = split_app(names, sure=False)
    if not rest:
        raise click.UsageError("which job? Name its class, method or function")
    if len(rest) > 1:
        raise click.UsageError(f"inputs are written name=value, not {rest[1]!r}")
    return app, rest[0], inputs


@click.command(
    epilog=examples(
        "enqueue myapp.main:jobs ExportStations tenant=acme",
        "enqueue myapp.main:jobs ExportStations.call tenant=acme --delay 5m --queue bulk",
        'enqueue myapp.main:jobs send_welcome user_id=42 \'tags=["a", "b"]\' --wait --timeout 30',
    )
)
@click.argument("words", nargs=-1, metavar="[APP] JOB [NAME=VALUE]...")
@click.option("--delay", type=DurationWord(), help="Due so much later: 90, 90s, 5m, 1h30m, 2d.")
@click.option("--at", type=MomentWord(), help="Due then: 2027-01-31T09:00+01:00.")
@click.option("--queue", metavar="NAME", help="Another queue than the definition says.")
@click.option(
    "--priority", type=int, help="Lower runs sooner inside a queue; 0 unless the definition says otherwise."
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for the result and print it; exit 1 when there is none. Says what it waits for.",
)
@click.option("--timeout", type=DurationWord(), help="Wait at most so long; exit 1 then. The job goes on.")
@with_output
def enqueue(words: Sequence[str], wait: bool, timeout: float | None, output: Output, **options: Any) -> None:
    """Enqueue a job of APP.

    JOB is a class, a method (Class.method) or a function; any ending of its kind will do that means only one. Of a class
    without a method, `call` is meant, or its only method. Inputs are given by name and read as they are declared: text
    stays as it is, everything else is JSON, or text where text is how it is stored (dates, UUIDs, decimals).
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    app, name, inputs = split_call(words)
    jobs = find_app(app)
    call = read_call(name, inputs)
    given = {option: value for option, value in options.items() if value is not None}

    say = output.note if wait else output.text

    async def do() -> Job | Gone:
        prepared = call.prepare(given)
        (handle,) = await jobs.enqueue_many([prepared])
        try:
            job = await handle.job()
            known = "" if handle.created else "; it was there already, and no other one is stored"
            say(f"job {job.id}: {call_of(job)}, {job.state} in queue {job.queue}{known}")
            return await _final(jobs, job, timeout) if wait else job
        except JobNotFound:  # it is committed, so it was there
            return Gone(handle.id, prepared)

    job = within(jobs, do)
    if isinstance(job, Gone):
        output.data({"id": job.id, "kind": job.prepared.kind, "method": job.prepared.method, "state": "gone"})
        if wait and not job.did_not_fail:
            raise Refused(str(job))
        say(str(job))
        return
    output.data(job_data(job))
    if wait:
        _tell(job, output)


@attrs.frozen
class Gone:
    """A job that was stored, and of which nothing is left."""

    id: int
    prepared: Prepared[Any]

    @property
    def did_not_fail(self) -> bool:
        """Of one that failed, its kind keeps more; of one that ran to its end, nothing."""
        return self._kept("keep") == "nothing" and self._kept("keep_failed") != "nothing"

    def _kept(self, word: str) -> object:
        return self.prepared.defined.get(word)

    def __str__(self) -> str:
        called = f"job {self.id}: {self.prepared.what}"
        if self.did_not_fail:
            return f'{called} ran to its end, and nothing is kept of it, as its keep="nothing" says'
        if self._kept("keep_failed") == "nothing":
            return f'{called} is gone, as its keep_failed="nothing" says; whether it failed is not known'
        return f"{called} is gone: it discarded itself, or was cleared; what it came to is not known"


async def _final(jobs: Jobs, job: Job, timeout: float | None) -> Job:
    hint = asyncio.create_task(_say_what_it_waits_for(jobs, job.id))
    try:
        async with asyncio.timeout(timeout):
            return await jobs.wait_for_job(job.id)
    except TimeoutError:
        now = await jobs.get_job(job.id)
        state = now.state if now else "gone"
        raise Refused(f"job {job.id} had no result after {timeout:g} s; it is {state} and goes on") from None
    except asyncio.CancelledError:
        click.echo(f"job {job.id} goes on", err=True)
        raise
    finally:
        hint.cancel()


async def _say_what_it_waits_for(jobs: Jobs, job_id: int) -> None:
    """Once, after a moment: who waits for a job that nobody runs would wait for ever."""
    await asyncio.sleep(A_MOMENT)
    with suppress(JobsError):
        job = await jobs.get_job(job_id)
        if job is not None and (words := await waits_for(jobs, job)):
            click.echo(visible(f"job {job_id} waits for {words}"), err=True)


def _tell(job: Job, output: Output) -> None:
    if job.state is JobState.COMPLETED:
        if job.result_error:
            output.note(f"completed, but its result could not be stored: {job.result_error}")
        else:
            output.result(job.result)
        return
    last = job.errors[-1] if job.errors else None
    details = (last.traceback or "") if last and job.state is JobState.FAILED else ""
    reason = f": {last.error}" if last else ""
    raise Refused(f"job {job.id} is {job.state}{reason}", details=details)
