"""Litestar: `uvicorn litestar_app:app`."""

import os
import sys
from typing import Any

from litestar import Litestar, get, post

from asyncjobs import JobNotFound, Jobs, job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
jobs = Jobs(DSN)


@job
async def add_up(numbers: list[int]) -> int:
    return sum(numbers)


@post("/sums", status_code=202)
async def request_sum(data: list[int]) -> dict[str, int]:
    return {"job": (await add_up.later(data)).id}


@get("/sums/{number:int}")
async def show_sum(number: int) -> dict[str, Any]:
    try:
        found = await jobs.handle(number).job()
    except JobNotFound:
        return {"state": "unknown"}
    return {"state": found.state, "sum": found.result}


@get("/health")
async def health() -> dict[str, bool]:
    return {"degraded": jobs.is_degraded}


app = Litestar([request_sum, show_sum, health], lifespan=[jobs.lifespan])
