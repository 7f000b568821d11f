"""A connection the runner holds for its whole life, and what is said when it breaks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asyncjobs._engine import link
from asyncjobs._engine.link import Patience
from asyncjobs._model.backoff import Exponential


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
