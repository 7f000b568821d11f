"""Run the benchmarks and print medians, spreads and ratios."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable

import click

from bench import drain, enqueue, latency, locks, poison, raw_batch, recovery, requests, scaling, turns
from bench.server import fresh_database, server

ALL = ("drain", "enqueue", "latency", "requests")
SLOW = ("recovery", "poison", "scaling", "locks")  #: minutes each; only when named
Measure = Callable[[str], Awaitable[float]]


@click.command(
    help="Measure asyncjobs against the limit of raw SQL. Without names: all but the slow ones, `recovery`, `poison`, `scaling` and `locks`."
)
@click.argument("names", nargs=-1, type=click.Choice([*ALL, *SLOW]))
@click.option("--pairs", default=5, show_default=True, help="Interleaved pairs of each comparison.")
@click.option("--jobs", default=60_000, show_default=True, help="Jobs of one drain.")
@click.option("--slots", default=200, show_default=True, help="Slots of the draining runner.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of one run of enqueue or requests.")
@click.option("--rate", default=100.0, show_default=True, help="requests: how many a second.")
@click.option("--web-slots", default=20, show_default=True, help="requests: slots beside them.")
@click.option("--unguarded", is_flag=True, help="requests: beside jobs that do not give way.")
@click.option("--runs", default=20, show_default=True, help="recovery: processes killed; of the rest, fewer.")
@click.option("--outage", default=30.0, show_default=True, help="recovery: seconds without Postgres.")
@click.option("--block", default=60.0, show_default=True, help="recovery: seconds a job blocks the loop.")
@click.option("--restarts", default=20, show_default=True, help="recovery: restarts of Postgres.")
@click.option(
    "--only", multiple=True, type=click.Choice(recovery.MEASUREMENTS), help="recovery: not all of it."
)
@click.option(
    "--processes", default="1,2,4,8,16", show_default=True, help="scaling: how many, one after the other."
)
@click.option("--write-into", type=click.Path(dir_okay=False), help="scaling: a page that has the table.")
def main(
    names: tuple[str, ...],
    pairs: int,
    jobs: int,
    slots: int,
    seconds: float,
    rate: float,
    web_slots: int,
    unguarded: bool,
    runs: int,
    outage: float,
    block: float,
    restarts: int,
    only: tuple[str, ...],
    processes: str,
    write_into: str | None,
) -> None:
    with server() as dsn:
        asyncio.run(measure(dsn, names or ALL, pairs, jobs, slots, seconds))
        if not names or "requests" in names:
            asyncio.run(beside_requests(dsn, pairs, rate, seconds, web_slots, not unguarded))
        if "locks" in names:
            asyncio.run(locks.report(dsn, pairs, jobs, slots))
            asyncio.run(turns.report(dsn, pairs, jobs, slots))
        if "poison" in names:
            asyncio.run(poison.report(dsn, pairs))
        if "scaling" in names:
            sizes = tuple(map(int, processes.split(",")))
            asyncio.run(scaling.report(dsn, sizes, repeats=pairs, jobs=jobs, into=write_into))
        if "recovery" in names:
            asyncio.run(
                recovery.report(
                    dsn, runs, only=only, outage_seconds=outage, block_seconds=block, restarts=restarts
                )
            )


async def beside_requests(
    dsn: str, pairs: int, rate: float, seconds: float, slots: int, guarded: bool
) -> None:
    async with fresh_database(dsn) as database:
        await requests.measure(
            database, pairs, rate=rate, seconds=seconds, slots=slots, guarded=guarded, spread=spread
        )


async def measure(
    dsn: str, names: tuple[str, ...], pairs: int, jobs: int, slots: int, seconds: float
) -> None:
    if "drain" in names:
        await compare(
            f"drain, jobs/s ({jobs} no-op jobs, one process, {slots} slots, history kept) against raw-batch",
            dsn,
            pairs,
            lambda database: drain.drain(database, jobs, slots),
            lambda database: raw_batch.drain(database, jobs),
        )
    if "enqueue" in names:
        for callers in (1, 10):
            await compare(
                f"enqueue in an own transaction, jobs/s ({callers} at a time) against the same INSERT",
                dsn,
                pairs,
                lambda database, callers=callers: enqueue.ours(database, callers, seconds),
                lambda database, callers=callers: enqueue.raw(database, callers, seconds),
            )
    if "latency" in names:
        values = []
        for _ in range(pairs):
            async with fresh_database(dsn) as database:
                values += await latency.latencies(database, 150)
        middle, tail = latency.summary(values)
        print(
            f"commit in another process to start, idle runner, ms: p50 {middle:.2f}, p99 {tail:.2f}, n {len(values)}"
        )


async def compare(what: str, dsn: str, pairs: int, ours: Measure, raw: Measure) -> None:
    """Ours and raw in turn, each on a fresh database; the ratio of each pair, and their median."""
    figures: list[tuple[float, float]] = []
    for number in range(pairs):
        pair: dict[str, float] = {}
        order = (("ours", ours), ("raw", raw))
        for name, run in order if number % 2 == 0 else reversed(order):
            async with fresh_database(dsn) as database:
                pair[name] = await run(database)
        figures.append((pair["ours"], pair["raw"]))
    ratios = [mine / limit for mine, limit in figures]
    print(what)
    print(f"  ours  {spread([mine for mine, _ in figures], ',.0f')}")
    print(f"  raw   {spread([limit for _, limit in figures], ',.0f')}")
    print(f"  ratio {spread(ratios, '.2f')}", flush=True)


def spread(values: list[float], form: str) -> str:
    """Median, and between what."""
    return f"{statistics.median(values):{form}}  ({min(values):{form}} to {max(values):{form}})"


main()
