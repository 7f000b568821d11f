"""Django: a job is part of `transaction.atomic()` with `on=django.db.connection`, and views in threads enqueue without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import django
import orjson
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from django.http import HttpRequest, JsonResponse
from django.test import AsyncRequestFactory

from asyncjobs import Jobs, WrongConnection, job
from tests.running import running

if not settings.configured:
    settings.configure(
        DATABASES={}, USE_TZ=True, SECRET_KEY="only for tests", LOGGING_CONFIG=None, ALLOWED_HOSTS=["*"]
    )
    django.setup()


@job(kind="test_django:greet")
async def greet(name: str) -> str:
    return f"hello {name}"


@contextmanager
def database_of(dsn: str) -> Iterator[None]:
    """Django's default database, in this thread."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    given = {
        **connections.configure_settings({})["default"],
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": query.get("host", [parts.hostname or ""])[0],
        "PORT": query.get("port", [str(parts.port or "")])[0],
        "CONN_MAX_AGE": 0,
    }
    given.update(
        {
            "ATOMIC_REQUESTS": False,
            "AUTOCOMMIT": True,
            "OPTIONS": {},
            "TIME_ZONE": None,
            "CONN_HEALTH_CHECKS": False,
        }
    )
    connections["default"] = DatabaseWrapper(given)
    try:
        yield
    finally:
        connections["default"].close()


async def in_django(dsn: str, work: Callable[[], Any]) -> Any:
    def in_thread() -> Any:
        with database_of(dsn):
            return work()

    return await asyncio.to_thread(in_thread)


@pytest.mark.seed("Q1", "P5")
async def test_a_job_is_part_of_atomic(dsn: str) -> None:
    """Q1 "transactional enqueue on the caller's connection": committed with its block, gone with a block that fails."""

    def work() -> list[int]:
        kept = []
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("create table orders (id int)")
            kept.append(greet.set(on=connection).later_sync("%s 100% O'Brien").id)
            with pytest.raises(ZeroDivisionError), transaction.atomic():  # a savepoint
                greet.set(on=connection).later_sync("never")
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            greet.set(on=connection).later_sync("never")
            raise ZeroDivisionError
        kept.append(greet.set(on=connection).later_sync("by itself").id)  # in autocommit
        return kept

    async with running(dsn) as jobs:
        kept = await in_django(dsn, work)
        texts = [await jobs.handle(each).result(timeout=20) for each in kept]
        assert texts == ["hello %s 100% O'Brien", "hello by itself"]
        assert len(await jobs.list_jobs()) == 2


async def test_a_block_that_is_lost_takes_no_job(dsn: str) -> None:
    """Django rolls the whole block back, so that a job would be lost in silence."""

    def work() -> None:
        with pytest.raises(WrongConnection, match="already failed"), transaction.atomic():
            transaction.set_rollback(True)
            greet.set(on=connection).later_sync("lost")

    async with Jobs(dsn):
        await in_django(dsn, work)


async def test_a_view_enqueues(dsn: str) -> None:
    """A sync view of an ASGI application runs in a thread, as Django's handler runs it."""

    def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"job": greet.later_sync(request.GET["name"]).id})

    async with running(dsn) as jobs:
        answer = await sync_to_async(view)(AsyncRequestFactory().get("/", {"name": "Ada"}))
        job_id = orjson.loads(answer.content)["job"]
        assert await jobs.handle(job_id).result(timeout=20) == "hello Ada"
