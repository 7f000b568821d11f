"""What the README shows is what works."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest
from asgi_lifespan import LifespanManager
from httpx import ASGITransport, AsyncClient

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture
async def readme(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ModuleType:
    """The README's Python, as the module a reader would paste it into."""
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    name = f"readme_of_{request.node.name}"  # a module, and a kind, of each test's own
    (tmp_path / f"{name}.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DATABASE_URL", dsn)
    return importlib.import_module(name)


async def test_the_readmes_application_runs_its_job(readme: ModuleType, dsn: str) -> None:
    """A request answers with its job; the job does what it says and completes."""
    db = await asyncpg.connect(dsn)
    await db.execute("create table exports (tenant text, done boolean not null default false)")
    async with LifespanManager(readme.app) as running:
        async with AsyncClient(transport=ASGITransport(running.app), base_url="http://readme") as client:
            answer = await client.post("/tenants/IS/exports")
        assert answer.status_code == 202
        await readme.jobs.handle(answer.json()["job"]).result(timeout=10)
        assert await db.fetchval("select done from exports where tenant = 'IS'")
        await readme.ExportStations("IS").call()  # "now, without a queue"
    await db.close()


async def test_the_readmes_job_rolls_back_with_the_insert(readme: ModuleType, dsn: str) -> None:
    """ "There if the insert is there": a request that fails leaves neither."""
    async with LifespanManager(readme.app) as running:
        transport = ASGITransport(running.app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://readme") as client:
            answer = await client.post("/tenants/IS/exports")  # there is no such table
        assert answer.status_code == 500
        assert await readme.jobs.list_jobs() == []


def test_the_readmes_files_exist() -> None:
    """Its links lead somewhere."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []
