"""The machine in its two sizes: a short one in every run, a long one by `nox -s machine`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine
from tests.machine.stage import Stage

EXAMPLES = int(os.environ.get("ASYNCJOBS_MACHINE_EXAMPLES", "0"))
SHORT = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def stage(database: str) -> Iterator[Stage]:
    stage = Stage(database)
    Machine.stage = stage
    try:
        yield stage
    finally:
        stage.close()


@pytest.mark.timeout(60 + EXAMPLES)
def test_any_life_is_as_the_model_says(stage: Stage) -> None:
    """Whatever is asked of the store, in any order, by however many: the database is as the model has it."""
    run_state_machine_as_test(Machine, settings=SHORT)
