"""Starlette and an asyncpg pool: a user and the welcome mail are one commit.

$ uvicorn starlette_asyncpg:app
$ curl -X POST http://localhost:8000/users/ada
"""

import os
import sys
from contextlib import asynccontextmanager

import asyncpg
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from asyncjobs import Jobs, job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
TABLE = "create table if not exists members (name text primary key, welcomed boolean not null default false)"

jobs = Jobs(DSN, queues={"mail": 5})


@job(queue="mail")
async def send_welcome(user: str, *, locale: str = "en") -> str:
    return f"welcome {user}, in {locale}"  # here a mail would be sent


@asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(DSN) as pool:
        await pool.execute(TABLE)
        yield {"pool": pool}


async def sign_up(request):
    name = request.path_params["name"]
    try:
        async with request.state.pool.acquire() as db, db.transaction():
            mail = await send_welcome.set(on=db).later(name, locale="de")
            await db.execute("insert into members (name) values ($1)", name)
    except asyncpg.UniqueViolationError:  # the mail is rolled back with the user
        return JSONResponse({"error": f"{name} is here already"}, status_code=409)
    return JSONResponse({"mail": mail.id}, status_code=201)


async def show_mail(request):
    mail = await jobs.handle(request.path_params["id"]).job()
    return JSONResponse({"state": mail.state, "text": mail.result})


app = Starlette(
    lifespan=jobs.wrap(lifespan),
    routes=[
        Route("/users/{name}", sign_up, methods=["POST"]),
        Route("/mails/{id:int}", show_mail),
    ],
)
