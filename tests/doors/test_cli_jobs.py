"""`enqueue` and `perform`: jobs from the shell."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncjobs import Job, Jobs, JobState
from tests.command import Shell, appears, open_shop

APP = "shop.main:jobs"


@pytest.fixture
def shop(tmp_path: Path, dsn: str) -> Shell:
    return open_shop(tmp_path, dsn)


@pytest.fixture
async def jobs(dsn: str, anyio_backend: str) -> AsyncIterator[Jobs]:
    async with Jobs(dsn) as jobs:
        yield jobs


async def the_job(jobs: Jobs) -> Job:
    (job,) = await jobs.list_jobs()
    return job


async def test_enqueue_stores_what_later_would(shop: Shell, jobs: Jobs) -> None:
    """A job from the shell is the job `later` stores: kind, method, inputs with their defaults, options."""
    done = await shop("enqueue", APP, "ExportStations", "tenant=42")
    assert (done.code, done.out.splitlines()) == (
        0,
        ["the shop opens", "job 1: shop.main:ExportStations.call, available in queue exports"],
    )
    job = await the_job(jobs)
    assert (job.kind, job.method, job.args) == (
        "shop.main:ExportStations",
        "call",
        {"tenant": "42", "limit": None},
    )
    assert (job.queue, job.max_attempts, job.state) == ("exports", 1, JobState.AVAILABLE)


async def test_enqueue_says_when_one_alike_was_there(shop: Shell, jobs: Jobs) -> None:
    """Of a unique job the handle may be that of another one, which waits in its own queue."""
    shop.write(
        "shop/alike.py",
        "from shop.main import *\n@job(unique=True, queue='refresh')\nasync def refresh(n: int) -> None: ...\n",
    )
    done = await shop("enqueue", "shop.alike:jobs", "refresh", "n=1")
    assert done.out.splitlines()[-1] == "job 1: shop.alike:refresh, available in queue refresh", done.err
    done = await shop("enqueue", "shop.alike:jobs", "refresh", "n=1", "--queue", "other")
    assert done.out.splitlines()[-1] == (
        "job 1: shop.alike:refresh, available in queue refresh; it was there already, and no other one is stored"
    )
    assert (await the_job(jobs)).id == 1


async def test_enqueue_takes_options_and_says_json_only(shop: Shell, jobs: Jobs) -> None:
    """With --json stdout is one object, whatever the application prints; options override the definition's."""
    done = await shop(
        "enqueue", APP, "main:ExportStations.dump", "tenant=x", "when=2027-01-31T09:00Z", "amount=1.10",
        "--delay", "1h", "--queue", "bulk", "--priority", "-3", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert "the shop opens" in done.err
    job = await the_job(jobs)
    assert done.data["id"] == job.id
    assert done.data["args"] == job.args == {
        "tenant": "x", "limit": None, "()": {"when": "2027-01-31T09:00:00+00:00", "amount": "1.10"},
    }  # fmt: skip
    assert (done.data["state"], done.data["queue"], done.data["priority"]) == ("scheduled", "bulk", -3)
    assert (job.scheduled_at - job.created_at).total_seconds() == 3600


async def test_arguments_without_names_are_given_by_name(shop: Shell, jobs: Jobs) -> None:
    """A parameter that only takes positions, and those of `*args` and `**kwargs`, are written by name as any other."""
    done = await shop("enqueue", APP, "total", "first=1", "rest=[2, 3]", 'named={"x": 4}')
    assert done.code == 0, done.err
    assert (await the_job(jobs)).args == {"first": 1, "rest": [2, 3], "named": {"x": 4}}


async def test_enqueue_at_a_moment(shop: Shell, jobs: Jobs) -> None:
    """--at is a moment with its zone."""
    done = await shop("enqueue", APP, "send", "user_id=1", "--at", "2099-01-31T09:00+01:00")
    assert done.code == 0
    assert (await the_job(jobs)).scheduled_at.isoformat() == "2099-01-31T08:00:00+00:00"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["ExportStation", "tenant=x"], 3, "did you mean 'ExportStations'?"),
        (["ExportStations.cal", "tenant=x"], 3, "did you mean 'call'?"),
        (
            ["nothing_like_it"],
            3,
            "no job is defined as 'nothing_like_it'; there are ExportStations, Finished",
        ),
        (["clash"], 2, "'clash' could be any of shop.one:clash, shop.two:clash; write more of it"),
        (["Picky", "size=1"], 2, "which method of Picky? Write Picky.one or Picky.two"),
        (["Picky.one", "size=0"], 2, "Picky refuses these inputs: ValueError"),
        (["ExportStations"], 2, "ExportStations needs tenant: write tenant=…"),
        (["ExportStations.dump", "tenant=x"], 2, "needs when: write when=…"),
        (["send", "user=1"], 2, "send has no input 'user'; did you mean 'user_id'?"),
        (["send", "user_id=1", "--priority", "99999"], 2, "priority=99999"),
        (["send", "user_id=1", "--delay", "1h", "--at", "2099-01-31T09:00Z"], 2, "both say when"),
        (["Letter", "mailer=x"], 2, "no input 'mailer'; it takes to: str"),
    ],
)
async def test_enqueue_refuses_in_one_sentence(
    shop: Shell, jobs: Jobs, words: list[str], code: int, says: str
) -> None:
    """What cannot be meant is refused with what to do, without a traceback; nothing is stored."""
    done = await shop("enqueue", APP, *words)
    assert (done.code, says in done.err, "Traceback" in done.err) == (code, True, False), done.err
    assert await jobs.list_jobs() == []


PROVIDED = """
import os
import attrs
from asyncjobs import Dependency, Jobs, Later, current_job, job


class Invoice:
    def __init__(self, total):
        self.total = total


def find_invoice():
    if current_job().args["invoice_id"] == 13:
        raise LookupError("there is no invoice 13")
    if current_job().args["invoice_id"] == 14:
        return None
    return Invoice(current_job().args["invoice_id"] * current_job().args["factor"])


@attrs.frozen
class ChargeInvoice(Later):
    tenant: str
    invoice_id: int
    invoice: Dependency[Invoice]
    factor: int = 10

    async def call(self) -> int:
        return self.invoice.total

    @job
    async def again(self, invoice: Dependency[Invoice]) -> list[int]:
        return [self.invoice.total, invoice.total]


@job
async def remind(invoice_id: int, factor: int, invoice: Dependency[Invoice]) -> int:
    return invoice.total


jobs = Jobs(os.environ["SHOP_DSN"], provide={Invoice: find_invoice})
"""


async def test_enqueue_provides_nothing(shop: Shell, jobs: Jobs) -> None:
    """What a job depends on is supplied where it runs: enqueueing it asks nobody for it, as `later` does not."""
    shop.write("bills.py", PROVIDED)
    for name in ("ChargeInvoice", "ChargeInvoice.again"):
        done = await shop("enqueue", "bills:jobs", name, "tenant=acme", "invoice_id=13", "--delay", "1h")
        assert done.code == 0, done.err
    first, second = await jobs.list_jobs()
    inputs = {"tenant": "acme", "invoice_id": 13, "factor": 10}
    assert (first.args, second.args) == ({**inputs, "()": {}}, inputs)


async def test_perform_provides_by_the_inputs(shop: Shell) -> None:
    """Providers see the inputs a job would be stored with, defaults too; what they raise is one sentence."""
    shop.write("bills.py", PROVIDED)
    for words, result in (
        (["ChargeInvoice", "tenant=acme", "invoice_id=4"], 40),
        (["ChargeInvoice.again", "tenant=acme", "invoice_id=4", "factor=2"], [8, 8]),
        (["remind", "invoice_id=4", "factor=3"], 12),
    ):
        done = await shop("perform", "bills:jobs", *words, "--json")
        assert (done.code, done.data) == (0, {"result": result, "error": None}), done.err
    done = await shop("perform", "bills:jobs", "ChargeInvoice", "tenant=acme", "invoice_id=13")
    assert done.code == 1
    assert done.err == (
        "Error: what ChargeInvoice.call depends on cannot be provided: LookupError: there is no invoice 13 (bills.py, line 14, "
        "in find_invoice)\n"
    )
    done = await shop("perform", "bills:jobs", "ChargeInvoice", "tenant=acme", "invoice_id=14")
    assert done.code == 1
    assert done.err.endswith(
        "asks for Missing: ChargeInvoice needs 'invoice', and what provides Invoice returned nothing\n"
    )
    done = await shop("perform", "bills:jobs", "ChargeInvoice", "invoice_id=13")
    assert (done.code, done.err.splitlines()[-1]) == (2, "Error: ChargeInvoice needs tenant: write tenant=…")


async def test_enqueue_waits_for_the_result(shop: Shell) -> None:
    """--wait prints the result; a job without one ends the command with 1 and says why."""
    async with shop.going("run", APP) as runner:
        await runner.says("running")
        done = await shop(
            "enqueue", APP, "send", "user_id=3", 'tags=["a"]', "--wait", "--timeout", "30", "--json"
        )
        assert (done.code, done.data["state"]) == (0, "completed")
        assert done.data["result"] == {"user": 3, "tags": ["a"], "in a job": True}

        done = await shop("enqueue", APP, "ExportStations", "tenant=acme", "--wait")
        assert (done.code, done.out.splitlines()) == (0, ["the shop opens", "4"])

        done = await shop("enqueue", APP, "ExportStations.fail", "tenant=acme", "--wait")
        assert done.code == 1
        assert "raise ValueError" in done.err
        assert done.err.splitlines()[-1] == "Error: job 3 is failed: ValueError: no stations in acme"

        done = await shop("enqueue", APP, "Finished", "--wait", "--json")
        assert (done.code, done.data["state"]) == (1, "skipped")
        assert done.err.splitlines()[-1] == "Error: job 4 is skipped"


FORGETFUL = """
from shop.main import *
from asyncjobs import Discard


@job(keep="nothing")
async def reset(token: str) -> None:
    if token == "wrong":
        raise ValueError(token)


@job(keep="nothing", keep_failed="nothing", max_attempts=1)
async def forget(token: str) -> None: ...


@job
async def discarded() -> None:
    raise Discard
"""


async def test_enqueue_waits_for_a_job_of_which_nothing_is_kept(shop: Shell) -> None:
    """What is known is said: a job whose kind keeps the failed ones only ran to its end; of others it is not known."""
    shop.write("shop/forgetful.py", FORGETFUL)
    app = "shop.forgetful:jobs"
    async with shop.going("run", app) as runner:
        await runner.says("running")
        done = await shop("enqueue", app, "reset", "token=s3cret", "--wait")
        assert (done.code, done.err.splitlines()[-1]) == (
            0,
            'job 1: reset() ran to its end, and nothing is kept of it, as its keep="nothing" says',
        )
        done = await shop("enqueue", app, "reset", "token=s3cret", "--wait", "--json")
        assert (done.code, done.data) == (
            0,
            {"id": 2, "kind": "shop.forgetful:reset", "method": None, "state": "gone"},
        )
        done = await shop("enqueue", app, "forget", "token=s3cret", "--wait")
        assert (done.code, done.err.splitlines()[-1]) == (
            1,
            'Error: job 3: forget() is gone, as its keep_failed="nothing" says; whether it failed is not known',
        )
        done = await shop("enqueue", app, "discarded", "--wait")
        assert (done.code, done.err.splitlines()[-1]) == (
            1,
            "Error: job 4: discarded() is gone: it discarded itself, or was cleared; what it came to is not known",
        )


async def test_enqueue_waits_only_so_long(shop: Shell, jobs: Jobs) -> None:
    """When nobody runs the job, --timeout ends the wait, not the job."""
    done = await shop("enqueue", APP, "send", "user_id=3", "--wait", "--timeout", "0.2")
    assert done.code == 1
    assert "had no result after 0.2 s; it is available and goes on" in done.err
    assert (await the_job(jobs)).state is JobState.AVAILABLE


async def test_perform_calls_it_here_and_now(shop: Shell, jobs: Jobs) -> None:
    """The call runs in this process and nothing is stored; its result is printed."""
    done = await shop("perform", APP, "ExportStations", "tenant=acme")
    assert (done.code, done.out.splitlines()) == (
        0,
        ["the shop opens", "exporting acme", "from another program", "4"],
    )
    assert "ExportStations.call is done" in done.err
    assert await jobs.list_jobs() == []


async def test_perform_says_json_only(shop: Shell) -> None:
    """With --json stdout is one object, whatever the code and the programs it starts print."""
    done = await shop("perform", APP, "ExportStations", "tenant=acme", "--json")
    assert (done.code, done.data) == (0, {"result": 4, "error": None})
    assert "exporting acme" in done.err
    assert "from another program" in done.err


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["send", "user_id=3"], {"user": 3, "tags": None, "in a job": False}),
        (["ExportStations.dump", "tenant=x", "when=2027-01-31T09:00Z"], "x 2027-01-31T09:00:00+00:00 1"),
        (["Letter", "to=Ada"], "sent to Ada"),
        (["total", "first=1", "rest=[2, 3]", 'named={"x": 4}'], 154),
    ],
)
async def test_perform_calls_functions_and_methods_with_what_they_need(
    shop: Shell, words: list[str], result: Any
) -> None:
    """Sync or async, with arguments or dependencies: what runs later runs now."""
    done = await shop("perform", APP, *words, "--json")
    assert (done.code, done.data) == (0, {"result": result, "error": None})


async def test_perform_shows_what_was_raised(shop: Shell) -> None:
    """A call that raises ends with 1 and the traceback of the user's own code."""
    done = await shop("perform", APP, "ExportStations.fail", "tenant=acme", "--json")
    assert (done.code, done.data) == (1, {"result": None, "error": "ValueError: no stations in acme"})
    assert "in fail" in done.err
    assert "asyncjobs/cli" not in done.err
    done = await shop("perform", APP, "ExportStations.give_up", "tenant=acme")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "Error: ExportStations.give_up asks for Cancel: nobody wants it"


async def test_an_interrupted_command_ends_with_130(shop: Shell, jobs: Jobs, tmp_path: Path) -> None:
    """Ctrl-C ends a performed call, in a thread too; it ends the wait for a job, and not the job."""
    for name in ("sleep", "sleep_in_a_thread"):
        async with shop.going("perform", APP, name, f"mark={tmp_path / name}") as command:
            await appears(tmp_path / name)
            command.signal(signal.SIGINT)
            assert await command.ended() == 130
            assert "Traceback" not in command.err
    async with shop.going("enqueue", APP, "send", "user_id=1", "--wait") as command:
        await command.says("available in queue mail")
        command.signal(signal.SIGINT)
        assert await command.ended() == 130
        assert "job 1 goes on" in command.err
    assert (await the_job(jobs)).state is JobState.AVAILABLE


async def test_performed_code_may_enqueue(shop: Shell, jobs: Jobs) -> None:
    """The application's Jobs is open while the call runs."""
    done = await shop("perform", APP, "chain", "user_id=7", "--json")
    job = await the_job(jobs)
    assert (done.code, done.data["result"]) == (0, job.id)
    assert (job.kind, job.args) == ("shop.main:send", {"user_id": 7})


async def test_perform_shows_a_result_no_job_could_keep(shop: Shell) -> None:
    """A result that is not JSON is shown as it is; it was done all the same."""
    done = await shop("perform", APP, "odd")
    assert done.code == 0
    assert "<object object" in done.out
    assert "would not be kept" in done.err


async def test_perform_needs_no_database_of_its_own(shop: Shell) -> None:
    """Code that does not speak to Postgres runs without it; code that does fails as it would."""
    nowhere = "postgresql://127.0.0.1:1/nowhere"
    done = await shop("perform", APP, "send", "user_id=3", "--json", SHOP_DSN=nowhere)
    assert done.code == 0
    done = await shop("perform", APP, "chain", "user_id=3", SHOP_DSN=nowhere)
    assert done.code == 1
    assert "DatabaseUnavailable" in done.err
