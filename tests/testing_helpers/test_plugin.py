"""The fixtures pytest finds by itself, in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import asyncpg

PROJECT = {
    "shop.py": """
import attrs
from asyncjobs import Jobs, Later, current_job

jobs = Jobs("postgresql://nobody@127.0.0.1:1/nowhere", queues={"mail": 1})

@attrs.frozen
class Mail(Later, queue="mail"):
    to: str

    async def call(self):
        async with current_job().transaction() as connection:
            await connection.execute("insert into sent (address) values ($1)", self.to)

async def sign_up(connection, address):
    await connection.execute("insert into customers (address) values ($1)", address)
    await Mail(address).later("call", on=connection, delay=3600)
""",
    "conftest.py": """
import asyncio
import asyncpg
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="session")
def asyncjobs_dsn(asyncjobs_dsn):
    async def create():
        connection = await asyncpg.connect(asyncjobs_dsn)
        await connection.execute("create table customers (address text); create table sent (address text)")
        await connection.close()
    asyncio.run(create())
    return asyncjobs_dsn

@pytest.fixture
def asyncjobs_application():
    from shop import jobs
    return jobs
""",
    "test_shop.py": """
import pytest
from sqlalchemy import text
from asyncjobs.testing import assert_enqueued, drain
from shop import Mail, sign_up

pytestmark = pytest.mark.anyio

@pytest.mark.parametrize("again", [1, 2])
async def test_mail_is_sent_an_hour_later(again, jobs, asyncjobs_connection, asyncjobs_clock):
    await sign_up(asyncjobs_connection, "anna@example.org")
    await assert_enqueued(Mail("anna@example.org"), queue="mail", delay=3600)
    await asyncjobs_clock.advance(hours=1)
    assert await drain() == {"completed": 1}
    assert await asyncjobs_connection.fetchval("select count(*) from sent") == 1

@pytest.mark.parametrize("again", [1, 2])
async def test_on_a_session(again, jobs, asyncjobs_session):
    await asyncjobs_session.execute(text("insert into customers (address) values ('otto')"))
    await Mail("otto").later("call", on=asyncjobs_session)
    await asyncjobs_session.commit()
    assert await drain() == {"completed": 1}
    assert (await asyncjobs_session.scalars(text("select address from sent"))).all() == ["otto"]

async def test_a_failure_is_readable(jobs):
    await assert_enqueued(Mail, args={"to": "otto"})
""",
}


async def test_the_fixtures_work_in_a_project(alone: str, tmp_path: Path) -> None:
    """Each test in a transaction that is rolled back, with the application's own Jobs; a failure points at the test."""
    for name, code in PROJECT.items():
        (tmp_path / name).write_text(code)
    done = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-rf"],
        cwd=tmp_path,
        env={**os.environ, "ASYNCJOBS_TEST_DSN": alone, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=45,
    )
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert (
        "test_shop.py:30: AssertionError" in done.stdout or "AssertionError: no job like this" in done.stdout
    )
    assert "nothing is enqueued" in done.stdout
    connection = await asyncpg.connect(alone)
    for table in ("customers", "sent", "asyncjobs.jobs", "asyncjobs.runners"):
        assert await connection.fetchval(f"select count(*) from {table}") == 0
    await connection.close()


def test_it_costs_nothing_where_it_is_not_used() -> None:
    """pytest loads it in every run: it brings nothing along but pytest itself, and warns of nothing."""
    (point,) = entry_points(group="pytest11", name="asyncjobs")
    code = (
        "import sys, pytest\nbefore = set(sys.modules)\n"
        f"import {point.value}\nprint(*sorted({{name.partition('.')[0] for name in set(sys.modules) - before}}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    brought = set(done.stdout.split())
    assert point.value in brought
    assert brought & {"asyncjobs", "asyncpg", "attrs", "anyio", "sqlalchemy"} == set()


def test_the_helpers_need_no_pytest() -> None:
    """They are for any test runner."""
    code = "import sys\nsys.modules['pytest'] = None\nimport asyncjobs.testing\nprint('sqlalchemy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
