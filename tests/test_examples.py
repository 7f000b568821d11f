"""Every example does what it says, run as its reader would run it: as a script, or served by uvicorn."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
import pytest

from asyncjobs import Job, Jobs, JobState, job
from tests.pages import free_port
from tests.waiting import eventually_async

EXAMPLES = Path(__file__).parent.parent / "examples"


@job(kind="test_examples:nothing_of_the_page")
async def nothing_of_the_page() -> None: ...


async def run(dsn: str | None, *words: str) -> str:
    """What `python …` in the folder of the examples prints."""
    done = await anyio.run_process(
        [sys.executable, *words], cwd=EXAMPLES, env=env_of(dsn), check=False, stderr=subprocess.PIPE
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def env_of(dsn: str | None) -> Mapping[str, str]:
    own = {} if dsn is None else {"ASYNCJOBS_DSN": dsn}
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **own}


@asynccontextmanager
async def served(app: str, dsn: str, log: Path, *, is_calm: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of *app* under uvicorn, which must end by itself when it is told to."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port)]
    with log.open("w") as said:
        server = subprocess.Popen(command, cwd=EXAMPLES, env=env_of(dsn), stdout=said, stderr=said)  # noqa: ASYNC220

    def said_so_far() -> str:
        return log.read_text()

    async def answers() -> bool:
        assert server.poll() is None, said_so_far()
        return "Uvicorn running" in said_so_far()

    try:
        await eventually_async(answers)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20
        ) as client:
            yield client
        server.terminate()
        with anyio.fail_after(20):
            await anyio.to_thread.run_sync(server.wait)
        assert not is_calm or "Traceback" not in said_so_far()
    finally:
        server.kill()
        server.wait()


async def jobs_in(dsn: str) -> list[Job]:
    """Every job there is, the oldest first."""
    async with Jobs(dsn) as jobs:
        return (await jobs.list_jobs())[::-1]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


async def test_plain_asyncio(dsn: str) -> None:
    """A script enqueues, runs and prints what came of it."""
    said = await run(dsn, "plain_asyncio.py")
    digests = [hashlib.sha256(word.encode()).hexdigest() for word in ("now", "or", "later")]
    assert [line.split()[1] for line in said.splitlines()] == digests
    assert [job.state for job in await jobs_in(dsn)] == [JobState.COMPLETED] * 3


async def test_export_stations(dsn: str) -> None:
    """The same object runs now, and later from the command line; where nothing is needed it is skipped."""
    assert "3 stations" in await run(dsn, "export_stations.py", "now", "acme")
    assert await jobs_in(dsn) == []
    await run(dsn, "export_stations.py", "later", "acme")
    await run(dsn, "export_stations.py", "later", "nobody")
    assert "acme: Celle" in await run(dsn, "-m", "asyncjobs", "work-off", "export_stations:jobs")
    acme, nobody = await jobs_in(dsn)
    assert (acme.kind, acme.state, acme.result) == (
        "export_stations:ExportStations",
        JobState.COMPLETED,
        3,
    )
    assert nobody.state is JobState.SKIPPED


async def test_invoice_charge(dsn: str) -> None:
    """Charges wait for a day; then the open invoice is charged, and the paid one is not."""
    await run(dsn, "invoice_charge.py")
    charges = await jobs_in(dsn)
    tomorrow = datetime.now(UTC) + timedelta(hours=24)
    assert [charge.state for charge in charges] == [JobState.SCHEDULED] * 2
    assert all(abs(charge.scheduled_at - tomorrow) < timedelta(minutes=5) for charge in charges)
    await run(dsn, "-m", "asyncjobs", "retry", *(str(charge.id) for charge in charges))
    await run(dsn, "-m", "asyncjobs", "work-off", "invoice_charge:jobs")
    assert [charge.state for charge in await jobs_in(dsn)] == [JobState.COMPLETED, JobState.SKIPPED]
    db = await asyncpg.connect(dsn)
    states = await db.fetch("select state from invoices order by id")
    await db.close()
    assert [row["state"] for row in states] == ["charged", "paid"]


async def test_user_changed(dsn: str) -> None:
    """Each subscriber that wants it gets a job of its own; of a change that is rolled back nobody hears."""
    said = (await run(dsn, "user_changed.py")).splitlines()
    assert "rolled back: nonsense is no address" in said
    heard = sorted(line for line in said if not line.startswith("rolled back"))
    assert heard == [
        "audit: user_changed of user 1",
        "audit: user_changed of user 2",
        "index: user 1",
        "index: user 2",
        "mail list: user 1 is ada@example.com",
    ]
    assert {job.queue for job in await jobs_in(dsn)} == {"default", "index", "mails"}


async def test_user_index(dsn: str) -> None:
    """Saved three times, the user is indexed once, as she was saved last; one who is gone is no failure."""
    said = (await run(dsn, "user_index.py")).splitlines()
    ada, nobody = await jobs_in(dsn)
    assert said == [
        f"saved Ada Byron: job {ada.id}",
        f"saved Ada King: job {ada.id} will see it",
        f"saved Ada Lovelace: job {ada.id} will see it",
        f"saved Nobody: job {nobody.id}",
        "index of user 1: ada, lovelace",
    ]
    assert (ada.state, ada.args) == (JobState.COMPLETED, {"user_id": 1})
    assert (nobody.state, nobody.errors[-1].error) == (JobState.SKIPPED, "Missing: user 2 is gone")


async def test_exactly_once(dsn: str) -> None:
    """What raises after its commit is completed, and its write is there once."""
    said = await run(dsn, "exactly_once.py")
    assert said.split("\n")[:3] == ["result 100", "state completed", "balance 100"]


async def test_starlette_asyncpg(dsn: str, log: Path) -> None:
    """A user gets a mail; a second one of the name gets neither a row nor a job."""
    async with served("starlette_asyncpg:app", dsn, log) as client:
        answer = await client.post("/users/ada")
        assert answer.status_code == 201, answer.text
        mail = f"/mails/{answer.json()['mail']}"

        async def sent() -> bool:
            return bool((await client.get(mail)).json()["state"] == "completed")

        await eventually_async(sent)
        assert (await client.get(mail)).json()["text"] == "welcome ada, in de"
        assert (await client.post("/users/ada")).status_code == 409
        assert len(await jobs_in(dsn)) == 1


async def test_litestar_app(dsn: str, log: Path) -> None:
    """Jobs run in Litestar's lifespan."""
    async with served("litestar_app:app", dsn, log) as client:
        number = (await client.post("/sums", json=[1, 2, 3])).json()["job"]

        async def summed() -> bool:
            return bool((await client.get(f"/sums/{number}")).json() == {"state": "completed", "sum": 6})

        await eventually_async(summed)
        assert (await client.get("/sums/999")).json() == {"state": "unknown"}
        assert (await client.get("/health")).json() == {"degraded": False}


async def test_fastapi_sqlalchemy(dsn: str, log: Path) -> None:
    """The page follows its job until it is completed; a request whose commit fails says so, and leaves no job."""
    async with served("fastapi_sqlalchemy:app", dsn, log, is_calm=False) as client:
        address = (await client.post("/reports/stations")).json()

        async def done() -> bool:
            return "<p>completed</p>" in (await client.get(address)).text

        await eventually_async(done)
        page = (await client.get(address)).text
        assert "All about stations." in page
        assert "refresh" not in page
        assert (await client.post("/reports/stations")).status_code == 500
        assert len(await jobs_in(dsn)) == 1


async def test_report_page(dsn: str, log: Path) -> None:
    """What the page asks for, as it asks: a report comes, one that fails says why, and other jobs are not shown."""
    async with served("report_page:app", dsn, log, is_calm=False) as client:
        page = (await client.get("/")).text
        assert all(
            each in page for each in ("`/reports/${year}`", "await ask(follow)", "job.done", "job.report")
        )

        async def asked_until_done(year: int) -> tuple[dict[str, Any], dict[str, Any]]:
            started = await client.post(f"/reports/{year}")
            assert started.status_code == 202, started.text
            follow = started.json()["follow"]
            first = answer = (await client.get(follow)).json()

            async def done() -> bool:
                nonlocal answer
                answer = (await client.get(follow)).json()
                return bool(answer["done"])

            await eventually_async(done)
            return first, answer

        first, last = await asked_until_done(2025)
        assert (first["done"], first["report"]) == (False, None)
        assert last == {"state": "completed", "done": True, "report": "3 sales, 6800 cents", "error": None}
        _, failed = await asked_until_done(1999)
        assert failed == {"state": "failed", "done": True, "report": None, "error": "KeyError: 1999"}
        assert (await client.get("/jobs/999")).status_code == 404
        async with Jobs(dsn):
            other = await nothing_of_the_page.set(delay=3600).later()
        assert (await client.get(f"/jobs/{other.id}")).status_code == 404


def test_examples_are_short_and_each_is_tested() -> None:
    """Fewer than 80 lines, and no file without its test here."""
    tests = Path(__file__).read_text()
    for example in EXAMPLES.glob("*.py"):
        assert len(example.read_text().splitlines()) < 80, example.name
        assert f"def test_{example.stem}(" in tests, example.name
        assert re.search(rf"`{example.name}`", (EXAMPLES / "README.md").read_text()), example.name


async def test_with_postgres() -> None:
    """Without a Postgres at hand, one comes along, and is gone afterwards."""
    said = await run(None, "with_postgres.py", sys.executable, "exactly_once.py")
    assert "balance 100" in said


@pytest.mark.parametrize(
    "example", [path.name for path in sorted(EXAMPLES.glob("*.py")) if path.name != "with_postgres.py"]
)
def test_without_a_database_it_says_what_to_set(example: str) -> None:
    """A sentence, and no traceback. Asked of the text: it is the first thing that is done with the setting."""
    text = (EXAMPLES / example).read_text("utf-8")
    assert 'os.getenv("ASYNCJOBS_DSN") or sys.exit("' in text
    assert "environ[" not in text


async def test_the_sentence() -> None:
    """It names the setting and the other way."""
    env = {name: value for name, value in os.environ.items() if name != "ASYNCJOBS_DSN"}
    done = await anyio.run_process(
        [sys.executable, "plain_asyncio.py"], cwd=EXAMPLES, env=env, check=False, stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr.decode().count("\n")) == (1, 1)
    assert "ASYNCJOBS_DSN=postgresql://" in done.stderr.decode()
    assert "with_postgres.py" in done.stderr.decode()
