"""Who types another system's word is told ours."""

from __future__ import annotations

import copy
import pickle
from operator import attrgetter
from typing import Any

import attrs
import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncjobs import InvalidDefinition, InvalidInput, InvalidOption, Jobs, Later, Lock, job
from asyncjobs._define.definition import Definition
from asyncjobs._define.handle import Handle
from asyncjobs._enqueue.options import LATER_WORDS
from asyncjobs._model import elsewhere
from asyncjobs._model.options import DEFINITION_WORDS


@job(kind="elsewhere:charge")
async def charge(order_id: int) -> str:
    return "charged"


@attrs.frozen
class Export(Later, kind="elsewhere:Export"):
    tenant: str

    async def call(self) -> None: ...


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("max_retries", "max_attempts="),
        ("autoretry_for", "raise Fail"),
        ("acks_late", "leave it out"),
        ("rate_limit", "jobs.limit"),
        ("queueing_lock", "unique="),
        ("bind", r"current_job\(\)"),
        ("expires", r"needed\(\)"),
        ("queue_lock", "unique="),
        ("worker_lock", "lock="),
        ("maximum_retry_count", "max_attempts="),
        ("max_run_time", "timeout="),
    ],
)
def test_an_option_of_theirs_is_translated_where_a_job_is_defined(word: str, ours: str) -> None:
    """The error says what it is called here."""
    options: dict[str, Any] = {word: 1}
    with pytest.raises(InvalidOption, match=f"@job has no option '{word}'; .*{ours}"):
        job(**options)
    with pytest.raises(InvalidOption, match=f"has no option '{word}'; .*{ours}"):

        class Theirs(Later, **options):
            async def call(self) -> None: ...


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("countdown", "delay="),
        ("eta", "at="),
        ("_defer_by", "delay="),
        ("connection", "on="),
        ("args", "inputs are"),
    ],
)
async def test_an_option_of_theirs_is_translated_where_a_job_is_enqueued(word: str, ours: str) -> None:
    """By `.set`, by `later`, and where it stands among the inputs."""
    options: dict[str, Any] = {word: 1}
    with pytest.raises(InvalidOption, match=f"charge.set has no option '{word}'; .*{ours}"):
        charge.set(**options)
    with pytest.raises(InvalidOption, match=f"later has no option '{word}'; .*{ours}"):
        await Export("acme").later("call", **options)
    with pytest.raises(InvalidInput, match=f"unexpected keyword argument '{word}'; .*{ours}"):
        await charge.later(7, **options)


@pytest.mark.parametrize(
    ("thing", "name", "ours"),
    [
        (charge, "delay", r"await ….later\(…\)"),
        (charge, "apply_async", r"\.set\(delay=…\)"),
        (charge, "s", "prepare"),
        (Jobs("postgresql://localhost/x"), "enqueue", "enqueues itself"),
        (Jobs("postgresql://localhost/x"), "task", "asyncjobs.job"),
        (Jobs("postgresql://localhost/x"), "run_worker_async", r"jobs\.running\(\)"),
        (Jobs("postgresql://localhost/x"), "publish_at", r"jobs\.publish\(…, at=…\)"),
        (Jobs("postgresql://localhost/x").handle(1), "get", r"handle\.result\("),
        (Jobs("postgresql://localhost/x").handle(1), "state", r"handle\.status\(\)"),
    ],
)
def test_a_method_of_theirs_is_translated(thing: object, name: str, ours: str) -> None:
    """The AttributeError says what to write."""
    with pytest.raises(AttributeError, match=f"has no '{name}'; .*{ours}"):
        getattr(thing, name)
    assert not hasattr(thing, name)


def test_any_other_name_is_missing_as_ever() -> None:
    """What nobody calls so has Python's own error."""
    for thing in (charge, Jobs("postgresql://localhost/x"), Jobs("postgresql://localhost/x").handle(1)):
        with pytest.raises(AttributeError, match=f"'{type(thing).__name__}' object has no attribute 'latr'$"):
            attrgetter("latr")(thing)


def test_what_says_ours_is_copied_and_pickled_as_before() -> None:
    """Looking for special methods finds none that are not there."""
    assert pickle.loads(pickle.dumps(charge)) is charge
    assert copy.copy(Jobs("postgresql://localhost/x").handle(7)).id == 7


def test_no_word_of_theirs_is_one_of_ours() -> None:
    """A table that hid an option, or a method, would be a lie."""
    assert elsewhere.OPTIONS.keys() & (DEFINITION_WORDS | LATER_WORDS) == set()
    tables = {Definition: elsewhere.OF_A_JOB, Handle: elsewhere.OF_A_HANDLE, Jobs: elsewhere.OF_JOBS}
    assert {
        (owner, name) for owner, table in tables.items() for name in table if hasattr(owner, name)
    } == set()


async def test_a_key_where_a_name_belongs() -> None:
    """`lock=` and `unique=` name inputs; a key itself is said otherwise, and the error says how."""
    with pytest.raises(InvalidDefinition, match=r"'tenant-7', .*these are names; .*Lock\(key=…\)"):
        await charge.set(lock="tenant-7", jobs=Jobs("postgresql://localhost/x")).later(7)
    with pytest.raises(InvalidDefinition, match=r"'tenant 7', .*these are names"):
        job(unique="tenant 7")(lambda tenant: None)
    with pytest.raises(InvalidDefinition, match="there are order_id"):
        await charge.set(lock=Lock("quite_other"), jobs=Jobs("postgresql://localhost/x")).later(7)


@pytest.mark.parametrize("later_first", [True, False])
def test_an_entity_is_told_to_be_one(later_first: bool) -> None:
    """delayed_job's records run their own methods later; here an object made again would be another row."""

    class Base(DeclarativeBase): ...

    with pytest.raises(InvalidDefinition, match=r"User is an entity, .*a class that holds its id"):

        class User(*((Later, Base) if later_first else (Base, Later))):  # type: ignore[misc]
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)

            async def activate(self) -> None: ...
