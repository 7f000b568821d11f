"""The machine notices when a statement is broken: otherwise it would prove nothing.

In every run, by the stories of `stories.py`, for each mutant the first that notices. In the session `machine` also by the machine
itself, acting at random.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import asyncpg
import pytest
from hypothesis import Phase, settings
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine
from tests.machine.mutants import MUTANTS, Mutant, mutant
from tests.machine.stage import Stage
from tests.machine.stories import STORIES, Play
from tests.machine.test_machine import SHORT

EXAMPLES = int(os.environ.get("ASYNCJOBS_MACHINE_EXAMPLES", "200"))

NOTICED = (AssertionError, asyncpg.IntegrityConstraintViolationError)


def tell(story: Callable[[Play], None]) -> None:
    machine = Machine()
    story(Play(machine))
    machine.teardown()


def told(each: Mutant, said: str | None, began: float) -> str:
    """For who watches: a mutant that breaks something is as it should be."""
    became = "GETS THROUGH" if said is None else f"is noticed ({said})"
    return f"the mutant {each.name!r} {became}, in {time.perf_counter() - began:.1f} s"


@pytest.mark.timeout(300)
@pytest.mark.failure_mode("F74", "F75", "F76", "F81")
@pytest.mark.parametrize("story", STORIES)
def test_a_story_is_as_the_model_says_and_no_mutant_gets_through_it(stage: Stage, story: str) -> None:
    """Step by step; and broken statements are noticed."""
    tell(STORIES[story])
    survivors = []
    for each in MUTANTS.get(story, []):
        began = time.perf_counter()
        said = noticed(lambda: tell(STORIES[story]), each)
        print(told(each, said, began))
        if said is None:
            survivors.append(each.name)
    assert survivors == []


@pytest.mark.faults  # for it takes minutes
@pytest.mark.timeout(3600)
def test_at_random_most_mutants_are_noticed_too(stage: Stage) -> None:
    """What nobody thought of is found like this, so it must find most of what somebody did. Some take two mistakes of a kind to
    one job, and more lives than this.
    """
    budget = settings(SHORT, max_examples=min(EXAMPLES, 300), derandomize=True, phases=[Phase.generate])
    mutants = [each for group in MUTANTS.values() for each in group]
    survivors = []
    for each in mutants:
        began = time.perf_counter()
        said = noticed(lambda: run_state_machine_as_test(Machine, settings=budget), each)
        print("at random,", told(each, said, began), flush=True)
        survivors += [each.name] if said is None else []
    assert len(survivors) < len(mutants) / 2, survivors


def test_a_mutant_of_words_that_are_gone_is_an_error() -> None:
    """A statement that was rewritten takes its mutants along."""
    with pytest.raises(LookupError, match="mend the mutant 'of old'"):
        _ = mutant("of old", "finish_jobs", "words nobody wrote", "").text
    assert MUTANTS.keys() <= STORIES.keys()


def noticed(play: Callable[[], None], broken: Mutant) -> str | None:
    """What *play* says of a broken statement."""
    Machine.stage.run(Machine.stage.mend())
    with broken.at_large():
        try:
            play()
        except NOTICED as error:
            return str(error).partition("\n")[0] or "an invariant is broken"
        except FlakyFailure:  # what it broke stays broken, so it breaks only once
            return "an invariant is broken, once"
    return None
