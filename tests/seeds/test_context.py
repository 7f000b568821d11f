"""Context travels from where a job is enqueued to where it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import (
    InvalidInput,
    InvalidOption,
    JobFailed,
    Jobs,
    Later,
    carry,
    current_locale,
    current_timezone,
    job,
)
from asyncjobs._enqueue.carried import captured, carried_by_name, carried_in, stamped
from asyncjobs._model.job import NewJob

tenant: ContextVar[UUID] = ContextVar("tenant")
shop: ContextVar[str] = ContextVar("shop", default="the first")

ACME = UUID(int=7)


@job(kind="seeds.tells_context", max_attempts=1)
async def tells_context() -> list[Any]:
    zone = current_timezone.get()
    return [current_locale.get(), zone and str(zone), shop.get(), str(tenant.get(None))]


@job(kind="seeds.tells_context_in_thread", max_attempts=1)
def tells_context_in_thread() -> list[Any]:
    zone = current_timezone.get()
    return [current_locale.get(), zone and str(zone), shop.get(), str(tenant.get(None))]


@contextmanager
def here(**values: Any) -> Iterator[None]:
    """Within it, these are current."""
    variables: dict[str, ContextVar[Any]] = {
        "locale": current_locale,
        "timezone": current_timezone,
        "shop": shop,
        "tenant": tenant,
    }
    tokens = [(variables[name], variables[name].set(value)) for name, value in values.items()]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


@pytest.fixture
async def jobs(dsn: str) -> Any:
    async with Jobs(dsn, context=[shop, carry(tenant, encode=str, decode=UUID)]).running() as jobs:
        yield jobs


@pytest.mark.seed("T8")
@pytest.mark.parametrize("tells", [tells_context, tells_context_in_thread], ids=["async", "sync"])
async def test_what_is_current_travels(jobs: Jobs, tells: Any) -> None:
    """T8 locale/timezone capture+restore …; generalised to registered `contextvars`."""
    with here(locale="de_CH", timezone=ZoneInfo("Europe/Zurich"), shop="the second", tenant=ACME):
        handle = await tells.later()
    assert await handle.result(timeout=10) == ["de_CH", "Europe/Zurich", "the second", str(ACME)]
    assert (await handle.job()).meta == {
        "carried": {"locale": "de_CH", "timezone": "Europe/Zurich", "shop": "the second", "tenant": str(ACME)}
    }


@pytest.mark.seed("T8")
async def test_what_is_not_set_is_as_the_runner_has_it(jobs: Jobs) -> None:
    """T8 … process default: and nothing is stored."""
    handle = await tells_context.later()
    assert await handle.result(timeout=10) == [None, None, "the first", "None"]
    assert (await handle.job()).meta is None


@attrs.frozen
class Localised(Later, kind="seeds.Localised", context={"locale": "en_GB"}):
    own: str | None = None

    def run_context(self) -> dict[str, Any] | None:
        return {"locale": self.own} if self.own else None

    async def call(self) -> str | None:
        return current_locale.get()


@pytest.mark.seed("T8")
async def test_the_four_levels(jobs: Jobs) -> None:
    """T8 … with the four-level precedence: instance hook > option > what came along > the process' own."""
    with here(locale="fr_FR"):
        said_by_object = await Localised("it_IT").later("call", context={"locale": "es_ES"})
        said_of_call = await Localised().later("call", context={"locale": "es_ES"})
        said_of_class = await Localised().later("call")
        came_along = await tells_context.later()
    own = await tells_context.later()
    assert await said_by_object.result(timeout=10) == "it_IT"
    assert await said_of_call.result(timeout=10) == "es_ES"
    assert await said_of_class.result(timeout=10) == "en_GB"
    assert (await came_along.result(timeout=10))[0] == "fr_FR"
    assert (await own.result(timeout=10))[0] is None
    assert current_locale.get() is None


@job(kind="seeds.enqueues_another")
async def enqueues_another() -> int:
    return (await tells_context.later()).id


@pytest.mark.seed("T8")
async def test_it_travels_on(jobs: Jobs) -> None:
    """T8 restored: and a job that is enqueued by a job has it from there."""
    with here(locale="de_CH", tenant=ACME):
        first = await enqueues_another.later()
    second = jobs.handle(await first.result(timeout=10))
    assert await second.result(timeout=10) == ["de_CH", None, "the first", str(ACME)]


@job(kind="seeds.changes_context")
async def changes_context() -> None:
    current_locale.set("xx")
    shop.set("burnt down")


@pytest.mark.seed("T8")
async def test_what_a_job_sets_ends_with_it(jobs: Jobs) -> None:
    """T8 … always restores previous values."""
    await (await changes_context.later()).result(timeout=10)
    assert await (await tells_context.later()).result(timeout=10) == [None, None, "the first", "None"]


async def test_a_job_keeps_its_meta(jobs: Jobs) -> None:
    """What is carried stands beside it."""
    with here(locale="de"):
        handle = await tells_context.set(meta={"order": 7}).later()
    await handle.result(timeout=10)
    assert (await handle.job()).meta == {"order": 7, "carried": {"locale": "de"}}
    with here(locale="de"):  # somebody who uses the word for something else keeps it
        handle = await tells_context.set(meta={"carried": "by hand"}).later()
    assert (await handle.result(timeout=10))[0] is None
    assert (await handle.job()).meta == {"carried": "by hand"}


language = "en"


@contextmanager
def speaking(word: str) -> Iterator[None]:
    global language
    before, language = language, word
    try:
        yield
    finally:
        language = before


@job(kind="seeds.speaks")
async def speaks() -> str:
    return language


async def test_what_is_no_context_variable_travels_too(dsn: str) -> None:
    """By a function that reads it and a context manager that makes it current, as Django's `override`."""
    travels = carry(name="language", read=lambda: None if language == "en" else language, enter=speaking)
    async with Jobs(dsn, context=[travels]).running():
        with speaking("de"):
            handle = await speaks.later()
        assert await handle.result(timeout=10) == "de"
        assert language == "en"


async def test_what_cannot_be_restored_fails_the_attempt(dsn: str) -> None:
    """A tenant's job must not run without the tenant; what means nothing to this process is passed over."""
    async with Jobs(dsn, context=[carry(tenant, encode=str, decode=UUID)]).running():
        handle = await tells_context.set(context={"tenant": "acme"}).later()
        with pytest.raises(JobFailed, match="badly formed hexadecimal UUID"):
            await handle.result(timeout=10)
        assert await (await tells_context.set(context={"moon": "full"}).later()).result(timeout=10)


async def test_what_cannot_be_written_is_refused_in_the_caller(dsn: str) -> None:
    """With what to do; and so is what cannot travel."""
    async with Jobs(dsn, context=[shop]):
        with (
            here(shop=object()),
            pytest.raises(InvalidInput, match=r"shop travels with jobs, .* give it carry\(…, encode=…"),
        ):
            await tells_context.later()
    for wrong, words in (
        ([3], "context=3 does not travel"),
        ([shop, shop], "two of the name 'shop'"),
    ):
        with pytest.raises(InvalidOption, match=words):
            Jobs("postgresql://", context=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="takes a ContextVar, or name=, read= and enter="):
        carry(name="x")
    with pytest.raises(InvalidOption, match="leave out read= and enter="):
        carry(shop, read=shop.get)


@pytest.mark.parametrize(
    "value",
    [ACME, (1, 2), float("nan"), "a\0b", "\ud800", b"x", {1: 2}, datetime.now(UTC), "x" * 100_001],
    ids=lambda value: type(value).__name__,
)
async def test_what_would_not_come_back_is_refused_in_the_caller(dsn: str, value: Any) -> None:
    """Before anything is stored: the caller's transaction goes on."""
    jobs = Jobs(dsn, context=[shop])
    async with jobs, jobs.connection() as connection, connection.transaction():
        with here(shop=value), pytest.raises(InvalidInput, match="shop travels with"):
            await tells_context.set(on=connection).later()
        assert await connection.fetchval("select count(*) from asyncjobs.jobs") == 0


async def test_a_time_zone_travels_by_its_name(dsn: str) -> None:
    """An offset alone has none that could be found where the job runs."""
    async with Jobs(dsn):
        with here(timezone=UTC):
            assert (await (await tells_context.later()).job()).meta == {"carried": {"timezone": "UTC"}}
        with (
            here(timezone=timezone(timedelta(hours=2))),
            pytest.raises(InvalidInput, match="timezone travels with jobs"),
        ):
            await tells_context.later()


@job(kind="seeds.traced")
async def traced() -> list[str]:
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return [trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)]


@pytest.mark.seed("T8")
async def test_the_trace_goes_on(jobs: Jobs) -> None:
    """T8 … generalised: the W3C trace context of OpenTelemetry's current span, where somebody uses it."""
    from opentelemetry import trace

    parent = trace.NonRecordingSpan(
        trace.SpanContext(
            0xABC,
            0xDEF,
            is_remote=False,
            trace_flags=trace.TraceFlags(1),
            trace_state=trace.TraceState([("a", "1")]),
        )
    )
    with trace.use_span(parent):
        handle = await traced.later()
    ids = ["0" * 29 + "abc", "0" * 13 + "def"]
    assert await handle.result(timeout=10) == ids
    meta = (await handle.job()).meta
    assert meta is not None
    assert meta["carried"]["trace"] == {"traceparent": f"00-{ids[0]}-{ids[1]}-01", "tracestate": "a=1"}


@pytest.mark.parametrize("trace", ["junk", 7, {"traceparent": "junk"}, {"traceparent": None}])
async def test_a_trace_that_cannot_be_read_is_no_reason_not_to_run(jobs: Jobs, trace: Any) -> None:
    """Somebody else may have written it."""
    import opentelemetry.trace  # noqa: F401 -- somebody uses it

    handle = await traced.set(context={"trace": trace}, max_attempts=1).later()
    assert await handle.result(timeout=10) == ["0" * 32, "0" * 16]


def test_nothing_of_opentelemetry_is_needed() -> None:
    """Nor imported."""
    script = "import sys, asyncjobs; from asyncjobs._enqueue import carried as c; c.captured(c.carried_by_name(())); assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    value=values,
    meta=st.none() | st.dictionaries(st.text("abcxyz", min_size=1), st.integers(0, 9), max_size=3),
)
def test_whatever_is_current_comes_back(value: Any, meta: dict[str, int] | None) -> None:
    """Any plain data, beside any meta; None does not travel."""
    import orjson

    any_var: ContextVar[Any] = ContextVar("any")
    any_var.set(value)
    carried = carried_by_name([any_var])
    text = None if meta is None else orjson.dumps(meta).decode()
    new = NewJob(kind="k", method=None, args="{}", queue="q", priority=0, max_attempts=1, meta=text)
    (stored,) = stamped([new], carried)
    if value is None:
        assert stored is new
        assert captured(carried) == {}
        return
    assert stored.meta is not None
    assert carried_in(stored.meta, carried) == {"any": value}
    assert {**orjson.loads(stored.meta), "carried": None} == {**(meta or {}), "carried": None}
