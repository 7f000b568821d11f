"""What must hold after any run, whatever was done to it. Each check reads the record and says what contradicts it.

C1  Nothing is lost: every job whose enqueueing was acknowledged, or whose transaction's other writes are there, is final.
C2  No ghosts, and nothing twice: what is stored was enqueued, once; what was rolled back is not there and never started;
    a job of a transaction is there if and only if the transaction's other writes are.
C3  The effect of a completed transactional job is there exactly once, under the token it was completed with; of a job that
    came to anything else there is none. What a zombie wrote is gone.
C4  Every job's trail is a path of the automaton: each change starts where the last one ended, the token rises by one with each
    claim and only then, nobody writes for a job another holds, nothing happens to a final job, what is stored is the last.
C5  Two attempts of one job run at the same time only where the first one's runner may have been thought dead: its network,
    its sessions or the server were broken, or it was frozen and has a lease alone. Being frozen does not cost a lock.
C6  A job that ran to its end runs again only where a fault kept its runner from saying so; one that completes in its own
    transaction never. What is completed has run, to its end, under the token it was completed with.
C7  No process runs more jobs of a queue at once than it has slots; in a lane nobody is passed by: no job is claimed while
    one before it (by priority, due time, id) has long been ready.
C8  Nothing runs before it is due, by the server's clock.
C9  The jobs of a process that died are free again within the bound that follows from the protocol's times.
C10 Only a job's own failures cost attempts: each that counts was raised by the job, and the number is right in the end; one
    that is put off and does not count found no database.
C11 A cancel is honoured: answered `cancelled`, the job never starts again and ends so; `requested`, it is never given to
    anybody again; `too late`, it was final.
C12 Nothing is left: no runner on the list, no lock, no session; processes end when they are told, with 0 and in time, use no
    more files, threads, tasks and memory than they may, and log no fault of ours; nothing was left unawaited.
C13 A job that takes its process down does so three times at most, and is failed for it; nobody else is, unless it was there
    at three kills from outside; who is suspected runs alone in its process. No kind fails, or is cancelled unasked, that does not do so by itself.

They are the study's, where what they speak of exists. Its C7 (unique, serial and limit keys) and C8 (cron) are here about order
and due times, until there are such keys and cron; its C11 (a web application's answers meanwhile) is about cancels.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from soak.history import Event
from soak.jobs import DOOMED, POISON, REFUSING, TRANSACTIONAL
from soak.reading import AFTERMATH, TO_ALL, Attempt, Reading
from soak.record import Change, Record

STATES = {10: "completed", 11: "skipped", 12: "cancelled", 13: "failed", 14: "failed"}
TOOK_RUNNERS_DOWN = 14
SUSPECTED = 4
FINAL = frozenset(STATES.values())

EXPECTED_ERRORS = re.compile(
    r"job \d+ \(soak:\w+\) (failed at attempt|raised after complete|took \d runners? down)"
)
AT_THE_SAME_TIME = 2.0  #: seconds within which two runners claim side by side
MOST = {"files": 100, "threads": 60, "tasks": 120, "most_kilobytes": 400_000}  #: of one process


def check(record: Record) -> dict[str, list[str]]:
    """What each check found."""
    reading = Reading(record)
    return {name: list(find(reading)) for name, find in CHECKS.items()}


def lost(run: Reading) -> Iterator[str]:
    """C1"""
    acknowledged = {key for event in run.of("enqueue", "ok") for key in event.detail["keys"]}
    for key in sorted(acknowledged | set(run.record.sent)):
        job = run.stored.get(key)
        if job is None:
            yield f"{key} was committed and is not there"
        elif job.state not in FINAL:
            yield f"{key} (job {job.job}) is {job.state}"


def ghosts(run: Reading) -> Iterator[str]:
    """C2"""
    ways = {
        key: event.detail.get("way") for event in run.of("enqueue", "invoke") for key in event.detail["keys"]
    }
    undone = {key for event in run.of("enqueue", "fail") for key in event.detail["keys"]}
    sent = set(run.record.sent)
    for key, times in Counter(job.key for job in run.record.jobs).items():
        if times > 1:
            yield f"{key} is there {times} times"
        if key in undone:
            yield f"{key} was rolled back, and is there"
        elif key not in sent and ways.get(key) != "alone":
            yield f"{key} is there without the other writes of its transaction"
    for key in {attempt.key for attempt in run.attempts} - run.stored.keys():
        yield f"{key} started, and is no job"


def effects(run: Reading) -> Iterator[str]:
    """C3"""
    found: dict[str, list[int]] = defaultdict(list)
    for effect in run.record.effects:
        found[effect.key].append(effect.token)
    for job in run.record.jobs:
        tokens = found.pop(job.key, [])
        if job.kind in TRANSACTIONAL and job.state == "completed":
            if len(tokens) != 1:
                yield f"{job.key} (job {job.job}) completed, and its effect is there {len(tokens)} times"
            elif tokens[0] != run.final_token(job.job):
                yield f"{job.key} (job {job.job}): its effect is that of token {tokens[0]}, which did not complete it"
        elif tokens:
            yield f"{job.key} (job {job.job}) is {job.state}, and has an effect"
    for key in found:
        yield f"{key} has an effect, and is no job"


def trails(run: Reading) -> Iterator[str]:
    """C4"""
    for job, changes in run.changes_of.items():
        before: Change | None = None
        for change in changes:
            if (wrong := _illegal(before, change)) is not None:
                yield f"job {job}: {wrong} ({change})"
                break
            before = change
    for stored in run.record.jobs:
        changes = run.changes_of.get(stored.job, [])
        if not changes:
            yield f"job {stored.job} has no trail"
        elif stored.state in FINAL and STATES.get(changes[-1].state) != stored.state:
            yield f"job {stored.job} is {stored.state}, and its trail ends in {changes[-1].state}"


def _illegal(before: Change | None, now: Change) -> str | None:
    """What is wrong with a change, after another."""
    if before is None:
        new = now.was_state is None and now.state in (0, 1) and now.runner is None and now.token == 0
        return None if new and now.attempt == 0 else "it does not begin as a new job"
    if before.state in STATES:
        return "something happened after it was final"
    if now.state in STATES:
        if (now.runner, now.token) != (before.runner, before.token):
            return "it was finished by somebody who did not hold it"
        return "it was finished while nobody held it" if now.runner is None and now.state != 12 else None
    was = now.was_state, now.was_runner, now.was_token, now.was_attempt, now.was_cancel
    if was != (before.state, before.runner, before.token, before.attempt, before.cancel):
        return "it does not go on where it was"
    claimed = before.runner is None and now.runner is not None
    if now.token != before.token + claimed:
        return "the token rises with a claim and only then"
    if claimed:
        legal = before.state in (0, SUSPECTED) and now.state == 0 and not before.cancel
        legal = legal and now.attempt == before.attempt + 1
        return None if legal else "it could not be claimed"
    if now.runner is not None:  # adopted, or asked to stop
        same = (now.state, now.attempt) == (before.state, before.attempt)
        return None if same else "it changed while it was held"
    if now.state in (0, SUSPECTED) and (now.state == SUSPECTED) != (now.crashes > 0):
        return "a suspect waits among the others, or another among the suspects"
    if before.runner is not None:  # let go
        right = (now.state == 2 and now.attempt == before.attempt) or (
            now.state in (0, 1, 2, SUSPECTED) and now.attempt == before.attempt - 1
        )
        return None if right else "it was let go in a way that does not exist"
    due = before.state in (1, 2) and now.state in (0, SUSPECTED)
    return None if due or now.state == before.state else "it waits for something else"


def overlaps(run: Reading) -> Iterator[str]:
    """C5"""
    for first, second in overlapping(run):
        if run.reason(first.pid, first.start, second.start) is None:
            yield (
                f"{first.key} (job {first.job}) ran as token {first.token} in {first.pid} and as {second.token} in "
                f"{second.pid}, {first.end - second.start:.3f} s together"
            )


def overlapping(run: Reading) -> Iterator[tuple[Attempt, Attempt]]:
    """Attempts of one job that ran at the same time, legally or not."""
    for attempts in run.attempts_of.values():
        for number, first in enumerate(attempts):
            for second in attempts[number + 1 :]:
                if second.start < first.end:
                    yield first, second


def repeats(run: Reading) -> Iterator[str]:
    """C6"""
    for attempts in run.attempts_of.values():
        for number, first in enumerate(attempts):
            if first.outcome != "ok":
                continue
            for second in attempts[number + 1 :]:
                what = f"{first.key} (job {first.job}) ran to its end as token {first.token}, and again as {second.token}"
                if second.start < first.end:
                    continue
                if first.kind in TRANSACTIONAL:
                    yield f"{what}, though it had completed itself"
                elif run.reason(first.pid, first.start, second.start) is None:
                    yield what
    for job in run.record.jobs:
        if job.state == "completed":
            token = run.final_token(job.job)
            under = [each for each in run.attempts_of.get(job.job, ()) if each.token == token]
            if not under:
                yield f"{job.key} (job {job.job}) is completed under token {token}, under which it never ran"
            elif job.kind not in TRANSACTIONAL and not any(each.outcome == "ok" for each in under):
                yield f"{job.key} (job {job.job}) is completed, and did not run to its end"


def order(run: Reading) -> Iterator[str]:
    """C7"""
    yield from _crowded(run)
    lanes: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in sorted(run.record.trail, key=lambda each: each.n):
        lanes[change.queue, change.kind].append(change)
    acknowledged = {
        job: event.wall for event in run.of("enqueue", "ok") for job in event.detail.get("ids", ())
    }
    for changes in lanes.values():
        yield from _passed_by(run, changes, acknowledged)


def _crowded(run: Reading) -> Iterator[str]:
    edges: dict[tuple[int, str], list[tuple[float, int]]] = defaultdict(list)
    for attempt in run.attempts:
        edges[attempt.pid, attempt.queue] += [(attempt.start, 1), (attempt.end, -1)]
    for (pid, queue), moments in edges.items():
        at_once = most = 0
        for _, step in sorted(moments):
            at_once += step
            most = max(most, at_once)
        if most > run.record.slots.get(queue, most):
            yield f"process {pid} ran {most} jobs of {queue!r} at once, and has {run.record.slots[queue]} slots"


def _passed_by(run: Reading, changes: Sequence[Change], acknowledged: dict[int, float]) -> Iterator[str]:
    since: dict[int, float] = {}  # each ready job, and since when
    places: dict[int, Place] = {}
    queue: list[Place] = []  # in the order in which they are to be claimed
    claims: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        if (
            change.was_runner is None and change.runner is not None and change.was_state == 0
        ):  # suspects have turns of their own
            claims[change.xid].append(change)

    def leave(job: int) -> None:
        if job in places:
            del queue[bisect_left(queue, places.pop(job))]

    for change in changes:
        leave(change.job)
        if change.state == 0 and change.runner is None:
            since[change.job] = change.at
            if (
                change.was_state is None
            ):  # in an open transaction nobody sees it; when that was over, somebody was told
                since[change.job] = max(change.at, acknowledged.get(change.job, float("inf")))
            places[change.job] = _place(change)
            insort(queue, places[change.job])
            continue
        together = claims.pop(change.xid, ())
        for claim in together:
            leave(claim.job)
        for claim in together:
            for place in queue[: bisect_left(queue, _place(claim))]:
                job = place[-1]
                if since[job] < claim.at - run.times.passed_by:
                    left = next((each.at for each in run.changes_of[job] if each.at > claim.at), float("inf"))
                    if left > claim.at + AT_THE_SAME_TIME:
                        yield f"job {claim.job} was claimed while job {job}, before it, waited {claim.at - since[job]:.1f} s"
                        return


Place = tuple[int, float, int]


def _place(change: Change) -> Place:
    return change.priority, change.due, change.job


def early(run: Reading) -> Iterator[str]:
    """C8"""
    for change in run.record.trail:
        if (
            change.was_runner is None
            and change.runner is not None
            and change.state == 0
            and change.at < change.due
        ):
            yield f"job {change.job} was claimed {change.due - change.at:.3f} s before it was due"


def rescues(run: Reading) -> Iterator[str]:
    """C9"""
    for rescue in run.rescues:
        if rescue.freed is None:
            yield f"job {rescue.job} stays with process {rescue.pid}, which is dead"
            continue
        died = rescue.died - run.offset
        bound = run.times.rescue
        for fault in run.faults:  # each of these makes the others wait again
            if fault.kind in TO_ALL and died - run.times.settle <= fault.since <= died + bound:
                bound += run.times.settle + min(fault.until - fault.since, 60) + AFTERMATH
        if rescue.freed - rescue.died > bound:
            yield f"job {rescue.job} of dead process {rescue.pid} waited {rescue.freed - rescue.died:.1f} s, more than {bound:g}"


def attempts(run: Reading) -> Iterator[str]:
    """C10"""
    for job, changes in run.changes_of.items():
        counted = 0
        for change in changes:
            retried = change.was_runner is not None and change.runner is None and change.state == 2
            if retried and change.attempt != change.was_attempt:
                yield from _excused(run, change)
            elif retried or change.state == 13:
                counted += 1
                yield from _unfounded(run, change)
        final = changes[-1]
        should = counted + (final.state == 10)
        if final.state in (10, 13) and final.attempt != should:
            yield f"job {job} ends at attempt {final.attempt}; {counted} failures make it {should}"


def _excused(run: Reading, change: Change) -> Iterator[str]:
    """Only an attempt that found no database is to be made again later, and does not count."""
    under = [each for each in run.attempts_of.get(change.job, ()) if each.token == change.token]
    if not any((each.outcome, each.said) == ("broke", "DatabaseUnavailable") for each in under):
        how = ", ".join(f"{each.outcome} {each.said}".strip() for each in under) or "nothing"
        yield f"job {change.job} was not charged as token {change.token}, of which the job says: {how}"


def _unfounded(run: Reading, change: Change) -> Iterator[str]:
    under = [each for each in run.attempts_of.get(change.job, ()) if each.token == change.token]
    if any(each.outcome == "raised" for each in under):
        return
    broke = [each for each in under if each.outcome == "broke"]
    if not any(run.unreachable(each.start, each.end) and each.said != "LeaseLost" for each in broke):
        how = ", ".join(f"{each.outcome} {each.said}".strip() for each in under) or "nothing"
        yield f"job {change.job} was charged with a failure as token {change.token}, of which the job says: {how}"


def cancels(run: Reading) -> Iterator[str]:
    """C11"""
    by_id = {job.job: job for job in run.record.jobs}
    for event in run.of("cancel", "ok"):
        answer, job = event.detail["answer"], event.job
        changes = run.changes_of.get(job, [])
        state = by_id[job].state if job in by_id else "not there"
        if answer == "cancelled":
            if state != "cancelled":
                yield f"job {job} was cancelled, and is {state}"
            if any(each.start > event.mono for each in run.attempts_of.get(job, ())):
                yield f"job {job} was cancelled, and started afterwards"
        elif answer == "requested":
            if not any(change.cancel for change in changes):
                yield f"the request to cancel job {job} is gone"
        elif not any(change.state in STATES and change.at <= event.wall for change in changes):
            yield f"it was said to be too late to cancel job {job}, which was not final"
    for job, changes in run.changes_of.items():
        asked = next((change.n for change in changes if change.cancel), None)
        if asked is not None and any(
            change.n > asked and change.runner is None and change.state < 10 for change in changes
        ):
            yield f"job {job} was asked to stop, and waits for another attempt"


def leftovers(run: Reading) -> Iterator[str]:
    """C12"""
    left = run.record.leftovers
    if left.runners:
        yield f"{left.runners} runners are on the list after the last one ended"
    if left.locks:
        yield f"{left.locks} advisory locks are held"
    if left.sessions:
        yield f"{left.sessions} sessions are open"
    if left.said.strip():
        yield f"a process said: {left.said.strip()[:2000]}"
    yield from _endings(run)
    yield from _logged(run)
    last = {event.pid: event for event in run.of("resources")}
    for pid, event in last.items():
        for what, most in MOST.items():
            if event.detail.get(what, 0) > most:
                yield f"process {pid} ended with {event.detail[what]} {what}, more than {most}"


def _endings(run: Reading) -> Iterator[str]:
    told = {fault.pid: fault for fault in run.faults if fault.kind in ("end", "kill")}
    poisoned = {event.pid for event in run.of("process", "poisoned")}
    up = {event.pid for event in run.of("process", "up")}
    for event in run.of("process", "gone"):
        pid, code = event.detail["of"], event.detail["code"]
        fault = told.get(pid)
        if pid in poisoned or (fault is not None and fault.kind == "kill"):
            continue
        if fault is None:
            yield f"process {pid} ended by itself, with {code}"
        elif code != 0 and (code != -15 or pid in up):
            yield f"process {pid} was told to end, and ended with {code}"
        elif event.mono - fault.since > run.times.shutdown + AFTERMATH:
            yield f"process {pid} took {event.mono - fault.since:.1f} s to end"


def _logged(run: Reading) -> Iterator[str]:
    for event in run.of("log"):
        if not _is_expected(run, event):
            message, logger, error = (event.detail[name] for name in ("message", "logger", "error"))
            yield f"process {event.pid} logged {event.phase} {logger}: {message} {error}".rstrip()


def _is_expected(run: Reading, event: Event) -> bool:
    message = event.detail["message"]
    if event.detail["logger"] != "asyncjobs" or "fault of asyncjobs" in message:
        return False
    if event.phase == "WARNING":
        return True
    cancelled = event.detail["error"] == "QueryCanceledError" and run.interrupted(event.mono)
    return event.phase == "ERROR" and (cancelled or EXPECTED_ERRORS.match(message) is not None)


def poisons(run: Reading) -> Iterator[str]:
    """C13"""
    most = run.times.max_crashes
    forgotten = sum(
        fault.kind == "restart-immediate" for fault in run.faults
    )  # claims, and the blame with them
    asked = {event.job for event in run.of("cancel", "invoke")}
    for job in run.record.jobs:
        name = f"{job.key} (job {job.job}, {job.kind})"
        blamed = [change for change in run.changes_of.get(job.job, ()) if change.state == TOOK_RUNNERS_DOWN]
        if job.kind == POISON:
            starts = len(run.attempts_of.get(job.job, ()))
            if job.state not in FINAL or job.job in asked:
                continue
            if not blamed or blamed[-1].crashes != most:
                yield f"{name} is {job.state} after {job.crashes} crashes"
            if starts > most + forgotten:
                yield f"{name} was started {starts} times"
        elif blamed:
            present = sum(
                each.pid in run.killed and each.outcome == "died" for each in run.attempts_of.get(job.job, ())
            )
            if present < most:
                yield f"{name} is failed for {job.crashes} crashes, and was there at {present} kills"
        elif job.state == "failed" and job.kind not in DOOMED:
            yield f"{name} is failed"
        elif job.state == "cancelled" and job.kind not in REFUSING and job.job not in asked:
            yield f"{name} is cancelled, and nobody asked"
    yield from _in_company(run)


def _in_company(run: Reading) -> Iterator[str]:
    suspects = {
        (change.job, change.token)
        for change in run.record.trail
        if change.was_state == SUSPECTED and change.state == 0 and change.runner is not None
    }
    beside: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in run.attempts:
        beside[attempt.pid].append(attempt)
    for attempt in run.attempts:
        if (attempt.job, attempt.token) in suspects:
            until = min(attempt.end, attempt.start + run.times.alone)
            for other in beside[attempt.pid]:
                if other.job != attempt.job and other.start < until and other.end > attempt.start:
                    yield f"job {other.job} ran in {other.pid} beside job {attempt.job}, a suspect"


CHECKS: dict[str, Callable[[Reading], Iterable[str]]] = {
    "C1": lost,
    "C2": ghosts,
    "C3": effects,
    "C4": trails,
    "C5": overlaps,
    "C6": repeats,
    "C7": order,
    "C8": early,
    "C9": rescues,
    "C10": attempts,
    "C11": cancels,
    "C12": leftovers,
    "C13": poisons,
}
