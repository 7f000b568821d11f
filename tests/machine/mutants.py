"""The product's statements, broken on purpose: the machine must notice each.

A mutant replaces words of one statement, in the mapping that this process's sessions read: the product has no hook for it. Words
that are no longer there are an error, so that a statement that was rewritten takes its mutants along.

One that research asks for is not here, because Postgres makes it impossible: a NOTIFY before its commit. What that protects is
broken instead by `the horizon is the newest transaction`, and by wake-ups that are not sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from types import MappingProxyType

import pytest

from asyncjobs._store import session
from asyncjobs._store.statements import DEFAULT_SCHEMA, in_schema, statements


@dataclass
class Mutant:
    """One statement, broken."""

    name: str
    statement: str
    changes: tuple[tuple[str, str], ...]

    @cached_property
    def text(self) -> str:
        """The broken statement."""
        rooms = (files("asyncjobs") / "_store" / "sql").iterdir()
        (file,) = [each for room in rooms if (each := room / f"{self.statement}.sql").is_file()]
        text = file.read_text("utf-8")
        for words, instead in self.changes:
            if words not in text:
                raise LookupError(
                    f"{self.statement}.sql has no {words!r} any more: mend the mutant {self.name!r}"
                )
            text = text.replace(words, instead)
        return in_schema(text, DEFAULT_SCHEMA)

    @contextmanager
    def at_large(self) -> Iterator[None]:
        """Every session of this process runs it."""
        broken = MappingProxyType({**statements(DEFAULT_SCHEMA), self.statement: self.text})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "statements", lambda _: broken)
            yield


def mutant(name: str, statement: str, *changes: str) -> Mutant:
    return Mutant(name, statement, tuple(zip(changes[::2], changes[1::2], strict=True)))


FENCE = "= ($2::bigint[])[width_bucket(id, $1::bigint[])]"

#: By the story that notices them.
MUTANTS = {
    "zombies": [
        mutant(
            "finish by id alone", "finish_jobs",
            "and runner = $3::bigint", "and $3::bigint is not null",
            "and token = ((select tokens from given))", "and token is distinct from -((select tokens from given))",
        ),
        mutant(
            "finish without the token", "finish_jobs",
            "and token = ((select tokens from given))", "and token is distinct from -((select tokens from given))",
        ),
        mutant("return without the token", "return_jobs", f"token {FENCE}", "$2::bigint[] is not null"),
        mutant("adopt without the token", "adopt_jobs", f"token {FENCE}", "$2::bigint[] is not null"),
        mutant("held by id alone", "find_held", f"token {FENCE}", "$2::bigint[] is not null"),
        mutant("a token is given out again after a return", "return_jobs", "set runner = null,", "set token = token - 1, runner = null,"),
        mutant("a token is given out again after a rescue", "rescue_jobs", "set runner = null,", "set token = token - 1, runner = null,"),
        mutant("a token is given out again after a retry", "retry_job", "created_at, token, priority, 0,", "created_at, 0, priority, 0,"),
        mutant("claim does not begin", "claim_jobs", "case when $10::boolean then", "case when $10::boolean is null then"),
        mutant("finish forgets the job", "finish_jobs", "is distinct from 0\n)", "is null and false\n)"),
        mutant("return burns the attempt", "return_jobs", "then 1 else 0 end", "then 0 else 0 end"),
        mutant("rescue burns the attempt", "rescue_jobs", "attempt = attempt - 1", "attempt = attempt"),
        mutant("return forgets the error", "return_jobs", "errors = asyncjobs.remember(errors,", "errors = asyncjobs.remember(null,"),
    ],
    "adopting": [
        mutant("finish without the incarnation", "finish_jobs", "and runner = $3::bigint", "and $3::bigint is not null"),
        mutant("return without the incarnation", "return_jobs", "and runner = $3::bigint", "and $3::bigint is not null"),
        mutant("what had begun is forgotten by who adopts", "adopt_jobs", "set begun = new.begun operator(pg_catalog.||) old.begun", "set begun = new.begun"),
        mutant("rescue blames without a crash", "rescue_jobs", "$4::boolean and", "$4::boolean is not null and"),
    ],
    "claiming": [
        mutant("claim waits for what others hold", "claim_jobs", "for update skip locked", "for update"),
        mutant("claim takes what others run", "claim_jobs", "and ready.runner is null", "", "and runner is null", ""),
        mutant("claim takes one too many", "claim_jobs", "limit shares.share", "limit shares.share + 1"),
        mutant(
            "claim knows no priority", "claim_jobs",
            "order by ready.queue, ready.kind, ready.priority, ready.scheduled_at", "order by ready.queue, ready.kind, ready.scheduled_at",
        ),
        mutant("queues take no turns", "claim_jobs", "order by weight desc, turn, served, priority", "order by priority"),
        mutant("claim takes what is due later", "claim_jobs", "and ready.state = 0", ""),
        mutant("a paused queue is not seen", "look_around", "where paused_at is not null", "where false"),
        mutant("pause does not pause", "pause_queue", "paused_at) values ($1::text, now())", "paused_at) values ($1::text, null)"),
    ],
    "coming_back": [
        mutant("begun is not said", "begin_jobs", "begun = $2::text::bigint[]", "begun = case when $2::text = '' then begun else begun end"),
        mutant("finish tells nobody", "finish_jobs", "case when awaited then", "case when false then"),
        mutant("retry forgets the delay", "return_jobs", "* interval '1 s', scheduled_at", "* interval '0 s', scheduled_at"),
        mutant(
            "return of what was to stop waits again", "return_jobs",
            "where not cancel_requested", "where true", "where cancel_requested", "where false",
        ),
        mutant("promote comes early", "promote_jobs", "and scheduled_at <= now()", ""),
        mutant("promote wakes nobody", "promote_jobs", "asyncjobs.wake(queue)", "queue"),
    ],
    "dying": [
        mutant("rescue takes from the living", "rescue_jobs", "live_jobs.runner = $1::bigint", "live_jobs.runner > 0"),
        mutant("rescue blames the innocent", "rescue_jobs", "(live_jobs.started_at is not null", "(true"),
        mutant("rescue waits for the frozen", "rescue_jobs", "for update skip locked", "for update"),
        mutant("rescue forgets who still holds", "rescue_jobs", "id <> all (array(select id from held))", "false"),
        mutant("the living look dead", "find_suspects", "pg_try_advisory_xact_lock(1634364780, lock_key)", "true"),
        mutant("who holds jobs is forgotten", "forget_runner", "not exists (select", "not exists (select where false and exists (select", "runner = $1::bigint)", "runner = $1::bigint))"),
        mutant("orphans are not found", "find_orphans", "not exists (select", "exists (select"),
    ],
    "killers": [
        mutant("rescue lets the deadly go on", "rescue_jobs", "theirs.crashes + 1 >= $2::integer", "theirs.crashes >= $2::integer"),
        mutant("two suspects run at once", "claim_suspect", "not asyncjobs.suspect_runs($3::float8, $4::integer)", "$3::float8 > 0 and $4::integer > 0"),
        mutant("prune forgets what is to be decided", "prune_jobs", "where state <> 14", "where true"),
        mutant("retry keeps the crashes", "retry_job", "0, max_attempts, 0,\n", "0, max_attempts, crashes,\n"),
    ],
    "people": [
        mutant("cancel takes it from who runs it", "cancel_job", "where runner is null)", "where true)"),
        mutant("cancel does not ask", "cancel_job", "set cancel_requested = true", "set cancel_requested = false"),
        mutant("retry takes it from who runs it", "retry_job", "and state in (1, 2)", ""),
        mutant("prune comes early", "prune_jobs", "finished_at < now()", "now() is not null or finished_at < now()"),
    ],
    "waiting_for_each_other": [
        mutant("return looks whether it was asked before it waits", "return_jobs", "order by id\n     for update", "order by id"),
        mutant("cancel passes by what is locked", "cancel_job", "and id > 0 for update", "and id > 0 for update skip locked"),
    ],
    "sleeping": [
        mutant("enqueue wakes nobody", "insert_jobs", "asyncjobs.wake(queue)", "queue"),
        mutant("a delay is forgotten", "insert_jobs", "then 1\n", "then 0\n"),
        mutant("the horizon is the newest transaction", "find_horizon", "pg_snapshot_xmin", "pg_snapshot_xmax"),
    ],
}  # fmt: skip
