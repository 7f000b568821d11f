"""FastAPI and SQLAlchemy: the row and its job are one commit, and a page shows how the job is getting on.

$ uvicorn fastapi_sqlalchemy:app
$ curl -X POST http://localhost:8000/reports/stations      # then open the address it answers with
"""

import os
import sys
from contextlib import asynccontextmanager
from typing import Annotated

import attrs
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asyncjobs import Jobs, JobState, Later, current_job

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
engine = create_async_engine(DSN.replace("postgresql://", "postgresql+asyncpg://", 1))
sessions = async_sessionmaker(engine, expire_on_commit=False)
jobs = Jobs(engine=engine)


class Base(DeclarativeBase): ...


class Report(Base):
    __tablename__ = "reports"
    title: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[int | None]
    text: Mapped[str | None]


@attrs.frozen
class WriteReport(Later, queue="reports"):
    title: str

    async def call(self) -> None:
        async with sessions.begin() as session:
            text = f"All about {self.title}."
            await session.execute(update(Report).where(Report.title == self.title).values(text=text))
            await current_job().complete(on=session)  # the text and the completion are one commit


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


async def transaction():
    async with sessions.begin() as session, jobs.on(session):
        yield session


Tx = Annotated[AsyncSession, Depends(transaction, scope="function")]  # "function": commit, then answer
app = FastAPI(lifespan=jobs.wrap(lifespan))


@app.post("/reports/{title}", status_code=202)
async def request_report(title: str, session: Tx):
    job = await WriteReport(title).later("call")
    session.add(Report(title=title, job=job.id))
    return f"/reports/{title}"


@app.get("/reports/{title}", response_class=HTMLResponse)
async def show_report(title: str, session: Tx):
    report = await session.get(Report, title)
    if report is None:
        raise HTTPException(404)
    state = JobState.COMPLETED if report.text else await jobs.handle(report.job).status()
    again = "" if state.is_final else '<meta http-equiv="refresh" content="1">'
    return f"{again}<h1>{title}</h1><p>{state}</p><p>{report.text or ''}</p>"
