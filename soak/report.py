"""What a run came to, as lines and as a page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from soak.checks import overlapping
from soak.reading import Reading
from soak.record import Record
from soak.schedule import WEIGHTS

SAYS = {
    "C1": "Nothing is lost", "C2": "No ghosts, nothing twice", "C3": "Effects of transactional jobs exactly once",
    "C4": "Every trail is a path of the automaton; tokens rise; writes are fenced", "C5": "No overlap without a reason",
    "C6": "No repeat without a reason", "C7": "Slots and order within a lane", "C8": "Nothing before it is due",
    "C9": "Rescues within their bound", "C10": "Only a job's own failures cost attempts", "C11": "Cancels are honoured",
    "C12": "Nothing is left; processes end in order and log no fault of ours", "C13": "Poison is stopped, innocents are not",
}  # fmt: skip

MEANS = {
    "kill": "SIGKILL of a runner; another process takes its place", "end": "SIGTERM of a runner; another process takes its place",
    "freeze": "SIGSTOP, up to well beyond the lease, then SIGCONT", "cut": "every connection of a runner breaks",
    "swallow": "nothing of a runner gets through, and nobody is told", "terminate": "`pg_terminate_backend` of about half of all sessions",
    "terminate-one": "`pg_terminate_backend` of one session", "interrupt": "`pg_cancel_backend` of about half of all sessions",
    "restart-fast": "Postgres restarts", "restart-immediate": "Postgres restarts without a word, as after a crash",
    "pause": "a queue is paused", "hold": "a transaction stays open, and its snapshot with it", "vacuum": "of the live jobs, with `analyze`",
}  # fmt: skip


def summary(record: Record, violations: Mapping[str, Sequence[str]]) -> str:
    """For a terminal."""
    lines = []
    for name, found in violations.items():
        lines.append(f"{name:4} {SAYS[name]}: {len(found) or 'holds'}")
        lines += [f"       {each}" for each in found[:10]]
    lines += [f"{what}: {value}" for what, value in numbers(record).items()]
    bad = sum(map(len, violations.values()))
    lines.append(f"{len(record.jobs)} jobs, {bad} violations")
    return "\n".join(lines)


def numbers(record: Record) -> dict[str, str]:
    """What is worth telling."""
    run = Reading(record)
    acknowledged = sum(len(event.detail["keys"]) for event in run.of("enqueue", "ok"))
    undone = sum(len(event.detail["keys"]) for event in run.of("enqueue", "fail"))
    doubt = sum(len(event.detail["keys"]) for event in run.of("enqueue", "info"))
    stages = {event.phase: event.mono for event in run.of("stage")}
    pids = {event.pid for event in run.of("process", "up")}
    pairs = list(overlapping(run))
    reasons = Counter(run.reason(first.pid, first.start, second.start) or "none" for first, second in pairs)
    again = sum(max(0, len(each) - 1) for each in run.attempts_of.values())
    states = Counter(job.state for job in record.jobs)
    told = {
        "jobs": f"{len(record.jobs):,} ({', '.join(f'{count:,} {state}' for state, count in states.most_common())})",
        "enqueued": f"{acknowledged:,} acknowledged, {undone:,} rolled back, {doubt:,} whose commit nobody knew of at first",
        "attempts": f"{len(run.attempts):,}, of which {again:,} were not the first of their job",
        "effects of transactional jobs": f"{len(record.effects):,}",
        "processes": f"{len(pids)}",
        "changes of rows that were checked": f"{len(record.trail):,}",
        "attempts that overlapped another of their job": f"{len(pairs)}"
        + (
            f" ({', '.join(f'{count} by {reason}' for reason, count in reasons.most_common())})"
            if pairs
            else ""
        ),
    }
    if {"healed", "drained"} <= stages.keys():
        told["drained after the harm ended"] = f"{stages['drained'] - stages['healed']:.1f} s"
    return told


def latencies(record: Record) -> list[tuple[str, int, str, str, str]]:
    """From a death to the job being free, and running, elsewhere: median, 99th percentile and most, by proof of life."""
    run = Reading(record)
    rows = []
    for name, lock in (("lock", True), ("lease alone", False)):
        for extent, among in (("all", False), ("nothing else broken", True)):
            chosen = [
                each for each in run.rescues if each.held_lock is lock and (each.undisturbed or not among)
            ]
            freed = [each.freed - each.died for each in chosen if each.freed is not None]
            started = [each.started - each.died for each in chosen if each.started is not None]
            for what, values in (("free again", freed), ("started again", started)):
                if values:
                    ordered = sorted(values)
                    rows.append((
                        f"{name}, {extent}: {what}", len(ordered), f"{ordered[len(ordered) // 2]:.2f} s",
                        f"{ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]:.2f} s", f"{ordered[-1]:.2f} s",
                    ))  # fmt: skip
    return rows


def page(record: Record, violations: Mapping[str, Sequence[str]]) -> str:
    """For the documentation."""
    run = Reading(record)
    config = next((event.detail for event in run.of("config")), {})
    faults = Counter(fault.kind for fault in run.faults)
    poisoned = sum(1 for _ in run.of("process", "poisoned"))
    bad = sum(map(len, violations.values()))
    lines = [
        "# A long soak",
        "",
        "Everything at once: real processes run jobs while a nemesis kills, freezes, cuts off and restarts what they stand on, by a",
        "schedule drawn from a seed. Then the harm ends, the system drains, and thirteen checks compare what every process saw,",
        "what happened to every row, and what is stored. `python3 noxfile.py soak -- --minutes 1` does it on your machine, in some two",
        "minutes; it ends with `0 violations`, or says what was wrong and where the histories are. This page was written by such a run:",
        "",
        "```text",
        re.sub(r" --(report|folder)[ =]\S+", "", config.get("command", "python -m soak")),
        "```",
        "",
        f"**{len(record.jobs):,} jobs, {sum(faults.values()):,} faults, {bad} violations.**",
        "",
        "## The checks",
        "",
        "| | what must hold | violations |",
        "|---|---|---|",
        *(f"| {name} | {SAYS[name]} | {len(found)} |" for name, found in violations.items()),
        "",
        "What each says exactly stands at the head of `soak/checks.py`. `tests/test_soak.py` shows each of them a violation,",
        "which it must report.",
        "",
        "## The run",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in numbers(record).items()),
        f"| seed | {config.get('seed')} |",
        f"| load and harm | {config.get('minutes', 0):g} minutes |",
        f"| protocol times | {config.get('pace', 0):g} × the defaults: look every {record.times.look:g} s, settle "
        f"{record.times.settle:g} s, lease {record.times.lease:g} s |",
        f"| machine | {config.get('cores')} cores, {config.get('gigabytes')} GB, {config.get('system')}; shared with others |",
        f"| software | asyncjobs at {config.get('commit', 'unknown')}, Python {config.get('python')}, PostgreSQL {config.get('postgres')}, durable |",
        "",
        "## The harm",
        "",
        "| fault | | times |",
        "|---|---|---|",
        *(f"| {kind} | {MEANS[kind]} | {faults[kind]} |" for kind in WEIGHTS if faults[kind]),
        f"| | a job kills its process | {poisoned} |",
        "",
        "`end` counts the runners told to stop when all was done, too.",
        "",
        "## From a death to a new start",
        "",
        "Of the jobs a process held when it was killed. Other faults around it make the others wait until they have settled again;",
        "a job that is free may still have to wait for a slot, or, if it had begun, for its turn to run alone.",
        "",
        "| | jobs | median | 99th percentile | most |",
        "|---|---|---|---|---|",
        *(
            f"| {what} | {n} | {middle} | {tail} | {most} |"
            for what, n, middle, tail, most in latencies(record)
        ),
        "",
    ]
    return "\n".join(lines)
