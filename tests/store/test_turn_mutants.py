"""What deals turns, broken on purpose: a story of `test_turns` notices each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.machine.mutants import Mutant, mutant
from tests.store import test_turns as stories
from tests.store.jobs import session_of

Story = Callable[[str], Awaitable[None]]

#: Words of the function `deal_turns`, what stands there instead, and the story that notices.
BROKEN: dict[str, tuple[Story, str, str]] = {
    "the round begins anew each time": (stories.test_the_round_goes_on_where_it_was, "set last_key = last_turn", "set last_key = ''"),
    "the round does not come round": (stories.test_the_round_goes_on_where_it_was, "fair_key <= last_turn\n               order by", "fair_key < ''\n               order by"),
    "the oldest goes first": (stories.test_each_key_has_a_turn_before_any_has_two, "order by lap, nth limit missing", "order by id limit missing"),
    "a turn does not move the job": (stories.test_a_key_has_one_turn_whatever_the_kinds_of_its_jobs, ", scheduled_at = from_at +", ", scheduled_at = scheduled_at + 0::float8 *"),
    "what lies ready is not counted": (stories.test_no_more_lie_ready_than_are_wanted, "missing := missing - ready", "missing := missing - 0 * ready"),
    "what was claimed is counted": (stories.test_no_more_lie_ready_than_are_wanted, "and runner is null", "and runner is distinct from -1"),
    "one round for all priorities": (stories.test_urgent_ones_now_and_then_do_not_take_the_others_turns, "and priority = level and turns.known = knowing", "and turns.known = knowing"),
    "one round for all kinds": (stories.test_who_knows_other_kinds_goes_round_by_itself, "hashtext(array_to_string(known, E'\\n'))", "cardinality(known)"),
    "unknown kinds are dealt": (stories.test_only_what_the_runner_takes_is_dealt, "lane (kind) where kind = any (known)", "lane (kind) where known is not null"),
    "priorities do not count": (stories.test_only_what_the_runner_takes_is_dealt, "level := first", "level := -32768"),
    "a paused queue is dealt": (stories.test_nothing_is_dealt_to_a_paused_queue, "and paused_at is not null", "and false"),
    "each priority is dealt as many": (stories.test_many_priorities_do_not_lie_ready_at_once, "missing := missing - cardinality(ids)", "missing := wanted"),
    "who changes a job is waited for": (stories.test_one_that_somebody_changes_is_passed_by, "for update skip locked", "for update"),
    "nobody is woken": (stories.test_a_dealer_is_told_of_by_the_idle, "perform asyncjobs.wake(queue_name)", "perform queue_name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_deal_is_noticed(dsn: str, name: str) -> None:
    """By the story that is about it."""
    story, words, instead = BROKEN[name]
    async with session_of(dsn) as session:
        connection: Any = session.connection
        text = await connection.fetchval(
            "select pg_get_functiondef(oid) from pg_proc where proname = 'deal_turns'"
        )
        text = text.replace("pg_catalog.", "").replace('"asyncjobs".', "asyncjobs.")
        assert words in text, f"deal_turns has no {words!r} any more: mend the mutant {name!r}"
        await connection.execute(text.replace(words, instead))
    with pytest.raises((AssertionError, TimeoutError, asyncpg.PostgresError)):
        await story(dsn)


STATEMENTS: list[tuple[Story, Mutant]] = [
    (stories.test_a_delay_a_retry_and_a_requeue_end_in_line, mutant("due ones are ready", "promote_jobs", "then 5 else 0", "then 0 else 0")),
    (stories.test_a_delay_a_retry_and_a_requeue_end_in_line, mutant("a requeued one is ready", "return_jobs", "is not null then 5", "is not null then 0")),
    (stories.test_a_delay_a_retry_and_a_requeue_end_in_line, mutant("a released one loses its turn", "return_jobs", "\n                           and ($5::double precision[])[width_bucket(id, $1::bigint[])] is not null then 5", " then 5")),
    (stories.test_a_finished_one_that_runs_again_stands_in_line, mutant("the key is forgotten", "retry_job", "boolean, options ->> 'fair'::text,\n", "boolean, null::text,\n", "is not null then 5", "is null then 5")),
    (stories.test_a_finished_one_that_runs_again_stands_in_line, mutant("a hurried one is ready", "retry_job", "when fair_key is not null then 5 else 0 end, scheduled_at", "else 0 end, scheduled_at")),
    (stories.test_one_in_line_is_cancelled_cleared_and_overdue_as_any_other, mutant("none in line is late", "find_overdue", "when 6 then", "when 5 then false when 6 then")),
    (stories.test_what_waits_in_line_is_nobodys_to_claim, mutant("new ones are ready", "insert_jobs", "then 5 else 0", "then 0 else 0")),
    (stories.test_what_waits_in_line_is_nobodys_to_claim, mutant("a look sees no lines", "look_around", "where state = 5", "where state = -5")),
]  # fmt: skip


@pytest.mark.parametrize(("story", "broken"), [pytest.param(*each, id=each[1].name) for each in STATEMENTS])
async def test_a_broken_statement_is_noticed(dsn: str, story: Story, broken: Mutant) -> None:
    """By the story that is about it."""
    with broken.at_large(), pytest.raises((AssertionError, asyncpg.PostgresError)):
        await story(dsn)
