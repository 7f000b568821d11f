"""Tests wait for facts, never for seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

DEADLINE = float(os.environ.get("ASYNCJOBS_TEST_DEADLINE", "20"))  # reached only by what fails


def eventually(fact: Callable[[], T], *, within: float = DEADLINE) -> T:
    """Wait until *fact* is true of the world; returns what it said. What it raises last is shown."""
    end = time.monotonic() + within
    while True:
        try:
            said = fact()
            if said:
                return said
            assert time.monotonic() < end, f"not within {within} s: {_name(fact)} said {said!r}"
        except Exception:
            if time.monotonic() >= end:
                raise
        time.sleep(0.005)


async def eventually_async(fact: Callable[[], Awaitable[T]], *, within: float = DEADLINE) -> T:
    """As `eventually`, for a fact that is awaited."""
    end = anyio.current_time() + within
    while True:
        try:
            said = await fact()
            if said:
                return said
            assert anyio.current_time() < end, f"not within {within} s: {_name(fact)} said {said!r}"
        except Exception:
            if anyio.current_time() >= end:
                raise
        await anyio.sleep(0.005)


def _name(fact: object) -> str:
    return getattr(fact, "__name__", repr(fact))
