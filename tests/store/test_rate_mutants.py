"""What lets in and makes ready by rates, broken on purpose: a story of `test_rates` notices each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest

from tests.machine.mutants import Mutant, mutant
from tests.store import test_rates as stories
from tests.store.jobs import session_of

Story = Callable[[str], Awaitable[None]]

each_attempt_pays = partial(
    stories.test_each_attempt_pays_and_what_is_told_of_it_is_when_it_paid, how="alone"
)
made_ready = stories.test_as_many_are_made_ready_as_there_are_tokens

#: The story that notices, words of a function, and what stands there instead.
BROKEN: dict[str, tuple[Story, str, str, str]] = {
    "nothing is paid": (each_attempt_pays, "let_in", "paid[by_key] + weight", "paid[by_key]"),
    "who has too few tokens begins": (stories.test_who_cannot_pay_waits_in_line_and_is_claimed_no_more, "let_in", "short[by_key] or ahead[by_key] < weight", "false"),
    "a light one overtakes": (stories.test_the_urgent_go_first_and_nobody_passes_the_first, "let_in", "mine.promoted_at is null and exists", "false and exists"),
    "the urgent one waits behind all": (stories.test_the_urgent_go_first_and_nobody_passes_the_first, "let_in", "and (priority, scheduled_at, id) < (mine.priority, mine.scheduled_at, mine.id)\n            limit 1", "limit 1"),
    "those behind stay": (stories.test_those_behind_go_to_the_line_together, "let_in", "limit 500", "limit 0"),
    "others go with them": (stories.test_those_behind_go_to_the_line_together, "let_in", "where rate_key = mine.rate_key and promoted_at is null", "where rate_key <> '' and promoted_at is null"),
    "all pay at once": (stories.test_only_so_many_pay_as_begin, "let_in", "cardinality(admitted) >= beginning", "false"),
    "who may begin later has started": (stories.test_only_so_many_pay_as_begin, "let_in", "where id = any (admitted)", "where id = any (ids)"),
    "the attempt is lost": (stories.test_who_cannot_pay_waits_in_line_and_is_claimed_no_more, "let_in", "attempt = attempt - 1, promoted_at", "promoted_at"),
    "its lock is kept": (stories.test_the_lock_comes_first_and_is_not_kept_in_line, "let_in", "lock_key is not null", "lock_key = ''"),
    "the queue's window is not paid": (partial(stories.test_a_queue_has_a_window, window="sliding"), "let_in", 'if held[by_queue]."window" = 1', "if false"),
    "the queue's other window is not paid": (partial(stories.test_a_queue_has_a_window, window="fixed"), "let_in", "paid[by_queue] + 1", "paid[by_queue] + 0"),
    "newcomers wait for a paused queue": (stories.test_a_paused_queue_holds_up_no_other_of_the_rate, "let_in", "where lined.queue <> all (closed)", "where lined.queue <> ''"),
    "a paused queue is first": (stories.test_a_paused_queue_holds_up_no_other_of_the_rate, "settle_rate", "where lined.queue <> all (closed)", "where lined.queue <> ''"),
    "a paused line is forgotten": (stories.test_a_paused_queue_holds_up_no_other_of_the_rate, "settle_rate", "moment + '00:00:02'", "null::timestamptz + '00:00:02'"),
    "who is about to pay does not count": (partial(made_ready, window=0), "settle_rate", "- coming;", ";"),
    "who does not come counts for ever": (stories.test_who_was_made_ready_and_does_not_come_holds_up_nobody, "settle_rate", "interval '10 s'", "interval '1 day'"),
    "a bucket does not fill": (partial(made_ready, window=0), "tokens_used", "- rate.used_at)", "- moment)"),
    "a window does not slide": (partial(made_ready, window=1), "tokens_used", "payment.paid_at > moment - rate.per * interval '1 s'", "payment.paid_at > '-infinity'"),
    "a window does not end": (partial(made_ready, window=2), "tokens_used", "then 0::float8 else rate.used", "then rate.used else rate.used"),
    "no line is due": (stories.test_who_cannot_pay_waits_in_line_and_is_claimed_no_more, "settle_rate", "set due_at = due where", "set due_at = null where"),
    "the old one's word": (stories.test_the_youngest_says_what_the_rate_is, "hold_rate", "teller > rate.said_by", "teller < rate.said_by"),
    "everyone's word": (stories.test_the_youngest_says_what_the_rate_is, "hold_rate", "teller > rate.said_by", "teller > 0"),
    "a new word is a new rate": (stories.test_the_youngest_says_what_the_rate_is, "hold_rate", "total := asyncjobs.tokens_used(rate, moment) +", "total :="),
    "the clock stops it": (stories.test_a_clock_that_is_set_back_stops_no_rate, "hold_rate", "rate.used_at > moment + interval '1 s'", "false"),
    "too heavy for ever": (stories.test_a_job_that_weighs_more_than_a_lowered_rate_pays_all_of_it, "let_in", "least(mine.rate_weight, held[by_key].capacity)", "mine.rate_weight"),
    "rows are not waited for": (stories.test_a_row_that_is_forgotten_just_now_is_made_again, "hold_rate", "rates.key = wanted for update", "rates.key = wanted"),
    "the sweep sees no line": (stories.test_what_a_stranger_did_is_put_right_by_the_sweep, "sweep_rates", "due_at < clock_timestamp() + interval '2 min'", "due_at is null") ,
    "a cancelled one is not missed": (partial(stories.test_cancelled_or_cleared_it_holds_up_nobody, how="cancelled"), "hurry_rate", "due_at > clock_timestamp()", "false"),
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_rate_is_noticed(dsn: str, name: str) -> None:
    """By the story that is about it."""
    story, function, words, instead = BROKEN[name]
    async with session_of(dsn) as session:
        connection: Any = session.connection
        text = await connection.fetchval(
            "select pg_get_functiondef(oid) from pg_proc where proname = $1", function
        )
        text = (
            text.replace("pg_catalog.", "")
            .replace('"asyncjobs".', "asyncjobs.")
            .replace("moment + interval '2 s'", "moment + '00:00:02'")
        )
        assert words in text, f"{function} has no {words!r} any more: mend the mutant {name!r}"
        await connection.execute(text.replace(words, instead))
    with pytest.raises((AssertionError, TimeoutError, asyncpg.PostgresError)):
        await story(dsn)


STATEMENTS: list[tuple[Story, Mutant]] = [
    (stories.test_only_so_many_pay_as_begin, mutant("it starts when it is claimed", "claim_jobs", "and rate_key is null ", "")),
    (each_attempt_pays, mutant("its start is told by its end", "finish_jobs", "coalesce(paid_at, ", "coalesce(null, ")),
    (each_attempt_pays, mutant("its rate is forgotten", "retry_job", "options #>> '{rate,key}'::text[]", "null::text")),
    (partial(stories.test_cancelled_or_cleared_it_holds_up_nobody, how="cancelled"), mutant("cancelled, it is not missed", "cancel_job", "when state = 6 then", "when false then")),
    (partial(stories.test_each_attempt_pays_and_what_is_told_of_it_is_when_it_paid, how="with others"), mutant("their rate is forgotten", "retry_jobs", "options #>> '{rate,key}'::text[]", "null::text")),
    (partial(stories.test_cancelled_or_cleared_it_holds_up_nobody, how="cancelled with others"), mutant("cancelled with others, it is not missed", "cancel_jobs", "where state = 6", "where state = -6")),
    (partial(stories.test_cancelled_or_cleared_it_holds_up_nobody, how="cleared"), mutant("cleared, it is not missed", "clear_jobs", "where state = 6", "where state = -6")),
    (stories.test_who_cannot_pay_waits_in_line_and_is_claimed_no_more, mutant("a look sees no rate", "look_around", "due_at is not null", "due_at is null")),
    (stories.test_a_rate_nobody_uses_is_forgotten, mutant("what is in use is forgotten", "prune_rates", "and full_at < clock_timestamp()", "")),
    (stories.test_a_rate_nobody_uses_is_forgotten, mutant("payments stay", "prune_rates", "rate_payments where key = any (array(select key from chosen))", "rate_payments where false")),
]  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize(("story", "broken"), [pytest.param(*each, id=each[1].name) for each in STATEMENTS])
async def test_a_broken_statement_is_noticed(dsn: str, story: Story, broken: Mutant) -> None:
    """By the story that is about it."""
    with broken.at_large(), pytest.raises((AssertionError, asyncpg.PostgresError)):
        await story(dsn)
