"""A connection the runner holds for its whole life, and what is said when it breaks."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import pytest

from asyncjobs._engine import link
from asyncjobs._engine.link import Patience
from asyncjobs._model.backoff import Exponential
from tests.engine.running import running
from tests.waiting import eventually_async


async def test_a_loss_is_said_once_with_its_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the error says nothing of itself, as a timeout does."""
    monkeypatch.setattr(link, "RECONNECT", Exponential(first=0.001, longest=0.001))
    patience = Patience("the claimer")
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    except TimeoutError as silent:
        for _ in range(3):
            await patience.wait_after(silent)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.endswith(f"no answer within {link.ANSWER:g} s")


@pytest.mark.parametrize("named", ["", "shop"])
async def test_who_looks_at_the_server_sees_whose_connections_these_are(dsn: str, named: str) -> None:
    """A runner's three connections are called asyncjobs in pg_stat_activity, or what the DSN calls them."""
    query = (
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = $1"
    )
    looking = await asyncpg.connect(dsn, server_settings={"application_name": "a test"})

    async def are_called_so() -> bool:
        return int(await looking.fetchval(query, named or "asyncjobs")) >= 3

    async with running(f"{dsn}&application_name={named}" if named else dsn):
        await eventually_async(are_called_so)
    await looking.close()
