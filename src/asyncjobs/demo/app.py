"""The web application. A request writes its row and its job in one commit; the job runs in this very process.

Serve it on your own database with `DATABASE_URL=postgresql://… uvicorn asyncjobs.demo.app:app`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route

from asyncjobs import Jobs
from asyncjobs.demo.exports import ExportStations
from asyncjobs.demo.page import page

DATABASE_URL = os.environ.get("DATABASE_URL", "postgresql:///demo")

jobs = Jobs(DATABASE_URL, queues={"exports": 4})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:  # noqa: ARG001
    """The application's own lifespan; the jobs' is wrapped around it, below."""
    async with asyncpg.create_pool(DATABASE_URL) as pool:
        yield {"pool": pool}


async def request_export(request: Request) -> JSONResponse:
    """`POST /tenants/{code}/exports`: the job and the row that knows it, or neither."""
    tenant = request.path_params["code"]
    async with request.state.pool.acquire() as db, db.transaction(), jobs.on(db):
        if not await db.fetchval("select exists (select from stations where country = $1)", tenant):
            raise HTTPException(404, f"no station is in {tenant}")
        job = await ExportStations(tenant).later("call")
        await db.execute("insert into exports (tenant, job) values ($1, $2)", tenant, job.id)
    return JSONResponse({"tenant": tenant, "job": job.id}, status_code=202)


async def list_exports(request: Request) -> JSONResponse:
    """`GET /tenants/{code}/exports`: how the tenant's exports are getting on."""
    exports = await request.state.pool.fetch(
        "select job, stations from exports where tenant = $1 order by job", request.path_params["code"]
    )
    return JSONResponse(
        [{**export, "state": await jobs.handle(export["job"]).status()} for export in exports]
    )


async def download_export(request: Request) -> PlainTextResponse:
    """`GET /tenants/{code}/exports.csv`: the newest CSV of the tenant."""
    tenant = request.path_params["code"]
    text = await request.state.pool.fetchval(
        "select csv from exports where tenant = $1 and finished_at is not null order by job desc limit 1",
        tenant,
    )
    if text is None:
        raise HTTPException(404, f"{tenant} has no export yet")
    return PlainTextResponse(text, media_type="text/csv")


async def show_exports(request: Request) -> HTMLResponse:
    """`GET /`: every export, for people."""
    return HTMLResponse(
        page(await request.state.pool.fetch("select tenant, stations from exports order by tenant, job"))
    )


app = Starlette(
    lifespan=jobs.wrap(lifespan),
    routes=[
        Route("/", show_exports),
        Route("/tenants/{code}/exports", request_export, methods=["POST"]),
        Route("/tenants/{code}/exports", list_exports),
        Route("/tenants/{code}/exports.csv", download_export),
    ],
)
