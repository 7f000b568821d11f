"""The stage on which the machine plays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine
from tests.machine.stage import Stage


@pytest.fixture
def stage(database: str) -> Iterator[Stage]:
    stage = Stage(database)
    Machine.stage = stage
    try:
        yield stage
    finally:
        stage.close()
