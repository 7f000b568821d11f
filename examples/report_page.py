"""A page that starts a report and asks for its job until the report is there.

$ uvicorn report_page:app      # then open http://localhost:8000
"""

import asyncio
import os
import sys

import attrs
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from asyncjobs import JobNotFound, Jobs, Later

SALES = {2025: [4200, 1700, 900], 2026: [5100, 2300]}

DSN = os.getenv("ASYNCJOBS_DSN") or sys.exit("say ASYNCJOBS_DSN=postgresql://…, or run it with_postgres.py")
jobs = Jobs(DSN, queues={"reports": 2})
app = FastAPI(lifespan=jobs.lifespan)


@attrs.frozen
class SalesReport(Later, queue="reports", max_attempts=2, backoff=0.5):
    year: int

    async def call(self) -> str:
        sales = SALES[self.year]
        await asyncio.sleep(1)  # it takes a while
        return f"{len(sales)} sales, {sum(sales)} cents"


@app.post("/reports/{year}", status_code=202)
async def start(year: int):
    report = SalesReport(year)
    job = await report.later(report.call)
    return {"follow": f"/jobs/{job.id}"}


@app.get("/jobs/{job_id}")
async def follow(job_id: int):
    try:
        job = await jobs.handle(job_id).job()
    except JobNotFound:
        raise HTTPException(404) from None
    if job.queue != "reports":  # ids can be guessed, and other jobs are none of this page's business
        raise HTTPException(404)
    error = job.errors[-1].error if job.errors else None
    return {"state": job.state, "done": job.state.is_final, "report": job.result, "error": error}


PAGE = """<!doctype html><title>Reports</title>
<h1>Sales</h1>
<button>2025</button> <button>2026</button> <button>1999</button>
<p></p>
<script>
const said = document.querySelector("p");
const ask = async (url, how) => (await fetch(url, how)).json();
const pause = () => new Promise((resolve) => setTimeout(resolve, 300));

async function show(year) {
  const { follow } = await ask(`/reports/${year}`, { method: "POST" });
  for (let job = await ask(follow); ; await pause(), job = await ask(follow)) {
    said.textContent = job.report ?? `${job.state} ${job.error ?? ""}`;
    if (job.done) return;
  }
}
for (const button of document.querySelectorAll("button"))
  button.onclick = () => show(button.textContent);
</script>
"""


@app.get("/", response_class=HTMLResponse)
async def page():
    return PAGE
