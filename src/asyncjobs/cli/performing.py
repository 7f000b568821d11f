"""`perform`: now, here, the same code from the shell."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import click

from asyncjobs._app import Jobs
from asyncjobs._define.enqueueing import codec_of
from asyncjobs._engine.context import NoJob, entered
from asyncjobs._engine.supply import supplied
from asyncjobs._engine.threads import ThreadCall
from asyncjobs._model.verbs import Cancel, Skip, Snooze
from asyncjobs.cli.calls import Wording, read_call
from asyncjobs.cli.enqueueing import split_call
from asyncjobs.cli.exits import Refused
from asyncjobs.cli.helping import examples
from asyncjobs.cli.logs import log_to_stderr
from asyncjobs.cli.output import Output, with_output
from asyncjobs.cli.target import find_app
from asyncjobs.errors import InvalidInput, JobsError

_ASKED = Snooze | Cancel | Skip
"""What a job may ask for that is no failure."""


@click.command(
    epilog=examples(
        "perform myapp.main:jobs ExportStations tenant=acme",
        "perform myapp.main:jobs send_welcome user_id=42 --json",
    )
)
@click.argument("words", nargs=-1, metavar="[APP] JOB [NAME=VALUE]...")
@with_output
def perform(words: Sequence[str], output: Output) -> None:
    """Call a job's code now, in this process.

    What it returns is printed. Nothing is stored and nothing retried: it is the call itself, with APP open, so that it may enqueue and use
    current_job(), which has the inputs and no id. JOB and its inputs are written as for enqueue. It exits with 1 when the call raises.
    """
    app, name, inputs = split_call(words)
    jobs = find_app(app)
    call = read_call(name, inputs)
    log_to_stderr()
    value, error, seconds = anyio.run(_perform, jobs, call)
    if error is not None:
        output.data({"result": None, "error": f"{type(error).__name__}: {error}"})
        raise _failed(call, error)
    try:
        text = codec_of(jobs).encode_value(value, call.result_type, what=f"the result of {call.what}")
    except InvalidInput as unstorable:
        output.note(f"{call.what} is done; as a job, its result would not be kept: {unstorable}")
        output.data({"result": None, "error": None, "result_error": str(unstorable)})
        output.text(repr(value))
        return
    result = json.loads(text)
    output.note(f"{call.what} is done, after {seconds:.2f} s")
    output.data({"result": result, "error": None})
    output.result(result)


async def _perform(jobs: Jobs, call: Wording) -> tuple[Any, Exception | None, float]:
    """What the call returned, or raised, and after how many seconds."""
    job = NoJob()
    job.args = json.loads(call.stored(codec_of(jobs)))
    async with jobs, AsyncExitStack() as stack:
        stack.enter_context(entered(job))
        try:
            supply = await stack.enter_async_context(supplied(jobs._provide, call.needs()))
        except JobsError:
            raise
        except Exception as failed:
            raise Refused(_unprovided(call, failed)) from failed
        try:
            function = call.ready(supply)
        except Skip as nothing:  # what it is about is gone
            return None, nothing, 0.0
        started = time.perf_counter()
        error: Exception | None = None
        value = None
        try:
            value = (
                await function()
                if call.is_async
                else await ThreadCall(function, call.what, _nothing).result()
            )
            if inspect.isawaitable(value):
                value = await value
        except Exception as raised:
            error = raised
        seconds = time.perf_counter() - started
    if isinstance(value, _ASKED):
        value, error = None, value
    return value, error, seconds


def _nothing() -> None:
    pass


def _failed(call: Wording, error: Exception) -> Refused:
    if isinstance(error, _ASKED):
        return Refused(f"{call.what} asks for {type(error).__name__}: {error}")
    return Refused(f"{call.what} failed", details="".join(traceback.format_exception(_below(error))))


def _unprovided(call: Wording, error: Exception) -> str:
    """Who failed to provide what, in a sentence."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return f"what {call.what} depends on cannot be provided: {type(error).__name__}: {error} ({where})"


def _below(error: Exception) -> Exception:
    """*error*, its traceback beginning in the code that was called."""
    trace = error.__traceback__
    while (
        trace is not None
        and trace.tb_next is not None
        and "asyncjobs" in trace.tb_frame.f_globals["__name__"]
    ):
        trace = trace.tb_next
    return error.with_traceback(trace)
