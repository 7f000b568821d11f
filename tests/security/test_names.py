"""Names that come from users: none of them becomes SQL, a channel, a line of a log, or another name."""

from __future__ import annotations

import ast
import string

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import InvalidOption, Jobs, job
from asyncjobs._model.options import check_name
from asyncjobs._store.listening import channel
from asyncjobs._store.statements import check_schema, in_schema, statements
from tests.connections import KINDS
from tests.engine.running import running
from tests.security.source import modules

HOSTILE = [
    "'; drop schema asyncjobs cascade; --",
    '"; drop schema asyncjobs cascade; --',
    "$1",
    "$$; select 1; $$",
    "%s %(x)s {x} :x ?",
    "a' or '1'='1",
    "\\'; drop table x; --",
    "{a,b}",
    "NULL",
    "pg_sleep(10)",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "x" * 120,
    "é" * 120,
    "🙂" * 120,
    "*",
    "asyncjobs.",
    "asyncjobs:ready",
]


@job(kind="test_names:echo")
async def echo(text: str) -> str:
    return text


# SQL


@pytest.mark.security("SEC-S3")
def test_no_statement_is_put_together_from_values() -> None:
    """Whatever runs SQL is given a constant, a name, or an element of `statements`: no f-string, no +, no %, no format."""
    runners = {
        "execute",
        "fetch",
        "fetchrow",
        "fetchval",
        "exec_driver_sql",
        "executemany",
        "prepare",
        "copy_to_table",
    }
    built = [
        (module.path, ast.unparse(call)[:120])
        for module in modules()
        if module.room == "_store"
        for name, call in module.calls()
        if name.rpartition(".")[2] in runners
        and call.args
        and isinstance(call.args[0], ast.JoinedStr | ast.BinOp)
    ]
    assert built == []


@pytest.mark.security("SEC-S3")
def test_sql_lives_where_it_is_looked_for() -> None:
    """Outside of the store nobody speaks to a driver, but for the demo's own tables and the embedded server's."""
    words = ("select ", "insert into ", "update ", "delete from ", "create table ", "drop ")
    elsewhere = {
        module.room
        for module in modules()
        for node in module.nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lower().lstrip().startswith(words)
        and len(node.value.split()) > 3
        and node.value.islower()
    }
    assert elsewhere <= {"_store", "demo", "embedded"}


IDENTIFIERS = st.text(alphabet=string.printable + "é\u202e\ufeff＂`\x00", max_size=60)


@pytest.mark.security("SEC-S3")
@given(IDENTIFIERS | st.sampled_from(HOSTILE))
def test_a_schemas_name_is_refused_or_is_one_identifier(name: str) -> None:
    """What is accepted has no quote, no dot, no dollar, and stands in quotes wherever it is an identifier."""
    try:
        check_schema(name)
    except InvalidOption:
        return
    assert not set(name) & set("\"'.$;:\\\n\0%")
    assert len(name.encode()) <= 40
    assert in_schema("select asyncjobs.x, 'asyncjobs:y'", name) == f"select \"{name}\".x, '{name}:y'"


@pytest.mark.security("SEC-S3")
def test_every_statement_of_another_schema_is_its_own() -> None:
    """Nothing in any statement of one schema names another."""
    for name, text in statements("other").items():
        said = "\n".join(line.partition("--")[0] for line in text.splitlines())
        assert "asyncjobs." not in said, name
        assert "asyncjobs:" not in said, name


@pytest.mark.security("SEC-S3")
async def test_hostile_schemas_are_refused_before_anything_is_sent(database: str) -> None:
    """By the library, whatever the name."""
    for name in (
        *(set(HOSTILE) - {"NULL"}),
        "",
        'a"b',
        "a.b",
        "a'b",
        "a;b",
        "a$b",
        "x" * 41,
        "1a",
        "pg_catalog\0",
        "a\nb",
    ):
        with pytest.raises(InvalidOption, match="schema"):
            Jobs(database, schema=name)


@pytest.mark.security("SEC-S3", "SEC-S13")
async def test_names_values_and_filters_are_never_sql(dsn: str) -> None:
    """Queues, tags, inputs, meta, kinds to look for: all come back as they were given, and the tables stand."""
    async with running(dsn) as jobs:
        handles = [await echo.set(queue=text, tags=[text], meta={text: text}).later(text) for text in HOSTILE]
        for text, handle in zip(HOSTILE, handles, strict=True):
            assert await handle.result(timeout=20) == text
            seen = await handle.job()
            assert (seen.queue, seen.tags, seen.meta) == (text, (text,), {text: text})
            assert [each.id for each in await jobs.list_jobs(queues=[text])] == [handle.id]
            assert await jobs.list_jobs(kinds=[text]) == []
            await jobs.pause(text)
        assert await jobs.paused_queues() == set(HOSTILE)
        for text in HOSTILE:
            await jobs.resume(text)
        assert len(await jobs.list_jobs(limit=1000)) == len(HOSTILE)


@pytest.mark.security("SEC-S3", "SEC-S13")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "session", "session on psycopg"])
async def test_no_driver_makes_sql_of_a_name(dsn: str, driver: str) -> None:
    """On every connection people have: psycopg's `%s`, SQLAlchemy's `:name` and asyncpg's `$1` in a name are letters."""
    async with Jobs(dsn) as jobs, KINDS[driver](dsn) as theirs:
        async with theirs.begin():
            handles = [await echo.set(on=theirs.on, queue=text, tags=[text]).later(text) for text in HOSTILE]
        seen = [await handle.job() for handle in handles]
        assert [(job.queue, job.tags, job.args) for job in seen] == [
            (text, (text,), {"text": text}) for text in HOSTILE
        ]
        assert len(await jobs.list_jobs(limit=1000)) == len(HOSTILE)


# Lines


@pytest.mark.security("SEC-S9", "SEC-S13")
@given(st.text(max_size=10), st.characters(categories=("Cc", "Zl", "Zp", "Cs")), st.text(max_size=10))
def test_no_name_steers_a_terminal_or_breaks_a_line(before: str, control: str, after: str) -> None:
    """Of queues, kinds and tags: what would forge a line of a log, or move a cursor, is refused."""
    for what in ("queue", "kind", "tag"):
        with pytest.raises(InvalidOption) as caught:
            check_name(before + control + after, what)
        assert control not in str(caught.value)  # it is said in escapes


@pytest.mark.security("SEC-S9")
async def test_unknown_names_are_logged_in_escapes(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """A kind or queue somebody inserted himself is named once, and can begin no line."""
    connection = await asyncpg.connect(dsn)
    forged = "x\n2026-01-01 CRITICAL forged\x1b[2J"
    await connection.execute(
        "insert into asyncjobs.live_jobs (queue, kind, args) values ($1, $1, '{}')", forged
    )
    await connection.close()
    async with running(dsn):
        assert await (await echo.later("ok")).result(timeout=20) == "ok"
    (said,) = [
        record.getMessage() for record in caplog.records if "does not define it" in record.getMessage()
    ]
    assert "\n" not in said
    assert "\x1b" not in said


@pytest.mark.security("SEC-S3")
def test_a_channel_is_the_schemas() -> None:
    """Two schemas of a database never hear each other: a name ends where its colon stands."""
    assert channel("a", "ready") == "a:ready"
    assert ":" not in string.ascii_letters + string.digits + "_ -"  # what a schema's name may be made of
