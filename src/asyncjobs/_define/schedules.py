"""`Cron` and `Every`: a job that repeats, as the user writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import attrs
import orjson

from asyncjobs._define.codec import Codec
from asyncjobs._define.definition import BoundJob, Calling, Definition
from asyncjobs._define.enqueueing import Prepared
from asyncjobs._define.later import Later
from asyncjobs._define.storable import STRICT
from asyncjobs._model.durations import Duration, moment, seconds
from asyncjobs._model.job import NewJob
from asyncjobs._model.lock import lock_of
from asyncjobs._model.options import check_name
from asyncjobs._model.queues import QueueRegistry, queues
from asyncjobs._model.schedule import TICK, Missed, NewSchedule, Overlap
from asyncjobs._model.ticks import Timing, cron_timing, every_timing, next_ticks
from asyncjobs._model.unique import unique_of
from asyncjobs.errors import InvalidDefinition, InvalidOption

What = Later | Prepared[Any] | Definition[[], Any, Any] | BoundJob[[], Any, Any] | Calling[[], Any]

_OF_ONE_CALL = ("on", "jobs", "delay", "at")
_THE_TICK = f'"{TICK.isoformat()}"'


class Repeating:
    """What every schedule says besides its times."""

    timing: Timing

    def __init__(
        self,
        what: What,
        *,
        name: str | None,
        missed: Missed,
        window: Duration | None,
        overlap: Overlap,
        jitter: Duration,
    ) -> None:
        self.what = _prepared(what)
        self.name = check_name(_short_name(self.what) if name is None else name, "name")
        _check_word(missed, Missed, "missed")
        _check_word(overlap, Overlap, "overlap")
        self.missed = missed
        self.window = None if window is None else seconds(window, "window")
        self.overlap = overlap
        self.jitter = seconds(jitter, "jitter")
        if missed == "all" and window is None:
            raise InvalidOption(
                f"schedule {self.name!r}: missed='all' makes a job of every tick that was missed, however many; say of how long "
                "ago, as in window=timedelta(days=1)"
            )
        if missed == "skip" and window is not None:
            raise InvalidOption(
                f"schedule {self.name!r}: missed='skip' makes up for nothing, so there is no window="
            )
        if (missed, overlap) in (("all", "skip"), ("skip", "queue")):
            raise InvalidOption(
                f"schedule {self.name!r}: missed={missed!r} and overlap={overlap!r} contradict each other: a tick is wanted later, "
                "and not wanted later; change one of them"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.timing} {self.what.what}>"

    def preview(self, count: int = 5, *, after: datetime | None = None) -> list[datetime]:
        """When it would tick next, on the clock of its time zone: after a moment, or now by this machine's clock."""
        start = datetime.now(UTC) if after is None else moment(after, "after")
        ticks = next_ticks(self.timing, start, count)
        return [tick.astimezone(ZoneInfo(self._times()["timezone"])) for tick in ticks]

    def new_schedule(self, codec: Codec, registry: QueueRegistry = queues) -> NewSchedule:
        """The schedule to store. Raises InvalidInput, and InvalidOption where each tick would have a key of its own."""
        for word, rule in (("unique", unique_of), ("lock", lock_of)):
            keyed = rule(self.what.call[word] if word in self.what.call else self.what.defined.get(word))
            if keyed is not None and keyed.key is None and _has_the_tick(self.what.chosen(keyed.names)):
                raise InvalidOption(
                    f"schedule {self.name!r}: {word}= is by an input that is TICK, which no two ticks have alike; name other inputs, "
                    f"as in .set({word}=…), or leave it out there with {word}=None"
                )
        return NewSchedule(
            name=self.name,
            **self._times(),
            job=self.what.new_job(codec, registry),
            missed=self.missed,
            missed_within=self.window,
            overlap=self.overlap,
            jitter=self.jitter,
        )

    def _times(self) -> dict[str, Any]:
        raise NotImplementedError


class Cron(Repeating):
    """`Cron("0 3 * * *", Nightly())`: a job at the times of a cron expression, on the clock of *timezone*.

    *what* is a service object (its `call`), a prepared call (`obj.prepare("other")`, `send.prepare(42)`), or a `@job` that takes
    nothing. *name* tells schedules apart; it is that of the class or function unless said. *missed*: of ticks that nobody was
    there for, "one" job is made up for by the last of them, for "all" within *window* there is one each, or "skip". *overlap*:
    while an earlier job of this schedule is unfinished, "allow" another, "skip" the tick, or "queue" one until that has ended.
    *jitter*: jobs are due up to so much later, each by an amount of its own.
    """

    def __init__(
        self,
        expression: str,
        what: What,
        *,
        name: str | None = None,
        timezone: str | ZoneInfo = "UTC",
        missed: Missed = "one",
        window: Duration | None = None,
        overlap: Overlap = "allow",
        jitter: Duration = 0,
    ) -> None:
        timing = cron_timing(expression, timezone)
        super().__init__(what, name=name, missed=missed, window=window, overlap=overlap, jitter=jitter)
        self.timing = timing
        self.expression = timing.expression
        self.timezone = timing.timezone

    def _times(self) -> dict[str, Any]:
        return {"cron": self.expression, "timezone": self.timezone, "every": None}


class Every(Repeating):
    """`Every(timedelta(minutes=5), sweep)`: a job every so often, counted from 1970 in UTC. The rest as `Cron`."""

    def __init__(
        self,
        interval: Duration,
        what: What,
        *,
        name: str | None = None,
        missed: Missed = "one",
        window: Duration | None = None,
        overlap: Overlap = "allow",
        jitter: Duration = 0,
    ) -> None:
        timing = every_timing(interval)
        super().__init__(what, name=name, missed=missed, window=window, overlap=overlap, jitter=jitter)
        self.timing = timing
        self.interval: timedelta = timing.interval

    def _times(self) -> dict[str, Any]:
        return {"cron": None, "timezone": "UTC", "every": self.interval.total_seconds()}


def check_schedules(given: object) -> list[Repeating]:
    """The schedules of a Jobs, checked where they are written."""
    if isinstance(given, Repeating) or not isinstance(given, Iterable):
        raise InvalidOption(f"schedules= takes a list of Cron(…) and Every(…), not {given!r:.120}")
    schedules = list(given)
    names: set[str] = set()
    for each in schedules:
        if not isinstance(each, Repeating):
            raise InvalidOption(
                f"schedules= takes a list of Cron(…) and Every(…), and {each!r:.120} is neither"
            )
        if each.name in names:
            raise InvalidOption(f"two schedules are called {each.name!r}; give one of them another name=")
        names.add(each.name)
    return schedules


def job_of_tick(codec: Codec, job: NewJob, schedule: str, tick: datetime, due: datetime) -> NewJob:
    """The job of one tick: the schedule's, told which tick it is for."""
    tick = tick.astimezone(UTC)
    meta = orjson.loads(job.meta) if job.meta is not None else {}
    meta |= {"schedule": schedule, "tick": tick.isoformat()}
    return attrs.evolve(
        job,
        args=job.args.replace(_THE_TICK, f'"{tick.isoformat()}"'),
        meta=codec.encode_plain(meta, what=f"meta of schedule {schedule!r}"),
        scheduled_at=due,
    )


def _has_the_tick(content: Mapping[str, Any]) -> bool:
    return _THE_TICK in orjson.dumps(content, option=STRICT).decode()


def _prepared(what: object) -> Prepared[Any]:
    if isinstance(what, Prepared):
        prepared: Prepared[Any] = what
    elif isinstance(what, Later):
        prepared = what.prepare("call")
    elif isinstance(what, Definition | BoundJob | Calling):
        prepared = what.prepare()
    else:
        raise InvalidDefinition(
            "a schedule repeats an object of a Later class, or a prepared call: obj.prepare('call'), send.prepare(42); "
            f"it got {what!r:.120}"
        )
    for word in _OF_ONE_CALL:
        if word in prepared.call:
            raise InvalidOption(
                f"{prepared.what} on a schedule has no {word}=: each tick says when, and stores it"
            )
    return prepared


def _short_name(prepared: Prepared[Any]) -> str:
    short = prepared.kind.rpartition(":")[2]
    return short if prepared.method in (None, "call") else f"{short}.{prepared.method}"


def _check_word(value: object, words: Any, name: str) -> None:
    if value not in get_args(words):
        raise InvalidOption(
            f"{name}={value!r:.80} is none of {', '.join(repr(word) for word in get_args(words))}"
        )
