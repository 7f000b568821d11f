"""The machine in its two sizes: a short one in every run, a long one by `nox -s machine`."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine
from tests.machine.stage import Stage

EXAMPLES = int(os.environ.get("ASYNCJOBS_MACHINE_EXAMPLES", "0"))
SHORT = settings(
    max_examples=EXAMPLES or 30,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(700 + EXAMPLES)  # a failure is made smaller for up to 300
@pytest.mark.failure_mode("F74", "F75", "F76", "F81")
def test_any_life_is_as_the_model_says(stage: Stage) -> None:
    """Whatever is asked of the store, in any order, by however many: the database is as the model has it."""
    began, busy, steps = time.perf_counter(), time.process_time(), Machine.steps
    run_state_machine_as_test(Machine, settings=SHORT)
    steps, seconds = Machine.steps - steps, time.perf_counter() - began
    busy = time.process_time() - busy
    print(
        f"{steps} steps in {seconds:.1f} s, {steps / seconds:.0f} a second; this process was busy for {busy:.1f} s"
    )
