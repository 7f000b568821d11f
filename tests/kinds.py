"""Kinds are known per process, so what a test defines would be known to all that come after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncjobs._define import registry


@contextmanager
def forgotten() -> Iterator[None]:
    """What is defined within is forgotten at its end, and what was defined before is known again."""
    before = dict(registry._kinds)
    try:
        yield
    finally:
        registry._kinds.clear()
        registry._kinds.update(before)
