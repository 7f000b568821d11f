"""The options of a job: one vocabulary for classes, `@job`, `.set()` and `later`, and how they merge.

The nearest word wins: `later` over `.set()` over the class or `@job` over its base classes over the defaults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypedDict, cast

from asyncjobs._model import elsewhere
from asyncjobs._model.backoff import BackoffLike, Exponential, as_backoff, backoff_to_json
from asyncjobs._model.durations import Duration, seconds
from asyncjobs._model.fair import FairLike, fair_names
from asyncjobs._model.job import NewJob
from asyncjobs._model.limits import RateLike, rate_of
from asyncjobs._model.lock import LockLike, lock_of
from asyncjobs._model.outcome import Kept
from asyncjobs._model.unique import UniqueLike, unique_of
from asyncjobs.errors import InvalidOption

When = Literal["later", "now"] | Callable[[NewJob], Literal["later", "now"]]
"""When a job runs, or a function that says so of it."""


Upcaster = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Stored inputs of one version, plain JSON data by name, as those of the next."""


class JobOptions(TypedDict, total=False):
    """What may be said of a job anywhere."""

    queue: str
    app: str | None  #: the part of the application it belongs to: its queue is `<app>_<queue>`
    priority: int  #: smallint; lower runs sooner inside a queue; that of its queue, else 0
    max_attempts: int
    timeout: Duration | None  #: of one attempt
    backoff: BackoffLike
    unique: UniqueLike  #: of the jobs that are alike, one is in the queue
    lock: LockLike  #: of the jobs that are alike, so many run at a time
    fair: FairLike  #: the jobs that are alike share a turn in their queue
    rate: RateLike  #: of the jobs that are alike, so many begin in a time
    tags: Sequence[str]
    meta: Mapping[str, Any]
    run: When  #: "later", or "now": at once, in its caller; or a function of the job that says which
    context: Mapping[str, Any]  #: what is current where it runs, by name, in place of what is current here


class DefinitionOptions(JobOptions, total=False):
    """What may be said where a job is defined."""

    kind: str
    keep: Literal["row", "without args", "nothing"]  #: what stays of a job that is final
    keep_failed: Literal["row", "without args", "nothing"]  #: what stays of one that failed
    overtime: bool  #: its timeout may be longer than `Jobs(timeout=…)` allows
    #: the processes that run it: any, or only those that serve no requests
    placement: Literal["anywhere", "standalone"]
    aliases: Sequence[str]  #: the kinds it was known by before, the first of them first
    renamed: Mapping[str, str]  #: of a class: former names of its methods, and today's
    version: int  #: of the shape of its inputs; with `upcasters`
    upcasters: Mapping[int, Upcaster]  #: by version, what makes inputs of the next one from stored ones


DEFAULTS: JobOptions = {
    "queue": "default",
    "max_attempts": 10,
    "timeout": None,
    "backoff": Exponential(),
}

JOB_WORDS = frozenset(JobOptions.__annotations__)
DEFINITION_WORDS = frozenset(DefinitionOptions.__annotations__)

KEPT = {"row": None, "without args": Kept.WITHOUT_ARGS, "nothing": Kept.NOTHING}
"""The words for what stays of a job."""

PLACEMENTS = ("anywhere", "standalone")

MOST_TAGS = 100

# A control character marks the planner's ballast (restore_ballast.sql); a name is also a NOTIFY payload.
# What steers a terminal or breaks a line in a log is in no name: C1 and the line separators, too.
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,120}")


def check_name(value: object, what: str) -> str:
    """A queue's, kind's or tag's name: 1 to 120 characters, none of them a control character."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value.isspace():
        raise InvalidOption(
            f"{what}={value!r:.160} is not a name; use 1 to 120 characters, no control characters"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidOption(f"{what}={value!r} holds a lone surrogate, which Postgres cannot store") from None
    return value


def check_words(given: Mapping[str, Any], allowed: frozenset[str], where: str) -> None:
    """Refuse a word that is no option there, and name the nearest that is."""
    for word in given:
        if word not in allowed:
            near = get_close_matches(word, allowed, 1)
            if word in elsewhere.OPTIONS:
                hint = f"; {elsewhere.OPTIONS[word]}"
            else:
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(allowed))}"
            raise InvalidOption(f"{where} has no option {word!r}{hint}")


def check_values(given: Mapping[str, Any]) -> None:
    """Refuse a value that makes no sense, at the earliest point."""
    if "queue" in given:
        check_name(given["queue"], "queue")
    if given.get("app") is not None:
        check_name(given["app"], "app")
    if "priority" in given:
        check_smallint(given["priority"], "priority", -32768)
    if "max_attempts" in given:
        check_smallint(given["max_attempts"], "max_attempts", 1)
    if given.get("timeout") is not None and seconds(given["timeout"], "timeout") == 0:
        raise InvalidOption("timeout=0 leaves no time to run; leave it out for no timeout")
    if "backoff" in given:
        as_backoff(given["backoff"])
    if "tags" in given:
        _check_tags(given["tags"])
    if "unique" in given:
        unique_of(given["unique"])
    if "lock" in given:
        lock_of(given["lock"])
    if "fair" in given:
        fair_names(given["fair"])
    if "rate" in given:
        rate_of(given["rate"])
    if "run" in given:
        check_when(given["run"])
    for word in ("meta", "context"):
        if word in given and not isinstance(given[word], Mapping):
            raise InvalidOption(f"{word}={given[word]!r} is not a dictionary")


def check_smallint(value: object, name: str, lowest: int) -> int:
    """A whole number that a column of the database holds."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= 32767:
        raise InvalidOption(f"{name}={value!r} is not a whole number from {lowest} to 32767")
    return value


def _check_tags(tags: object) -> None:
    if isinstance(tags, str):
        raise InvalidOption(f"tags={tags!r} is one word, and tags are a list of them; write tags=[{tags!r}]")
    if not isinstance(tags, Sequence) or len(tags) > MOST_TAGS:
        raise InvalidOption(f"tags={tags!r:.60} is not a list of at most {MOST_TAGS} words")
    for tag in tags:
        check_name(tag, "tag")


def check_when(when: object) -> None:
    """Refuse what does not say when a job runs."""
    if when not in ("later", "now") and (isinstance(when, type) or not callable(when)):
        raise InvalidOption(
            f"run={when!r:.160} is not when a job runs; say 'later', 'now', or pass a function of the job"
        )


def runs_now(when: When | None, job: NewJob) -> bool:
    """Whether *job* runs at once. One with a delay= or at= waits for its time."""
    if when is None or job.delay is not None or job.scheduled_at is not None:
        return False
    said = when(job) if callable(when) else when
    if said not in ("later", "now"):
        raise InvalidOption(
            f"run= said {said!r:.160} of {job.kind}; a function of the job returns 'later' or 'now'"
        )
    return said == "now"


def definition_options(given: Mapping[str, Any], where: str) -> DefinitionOptions:
    """The options of a class or of `@job`, checked where they are written."""
    check_words(given, DEFINITION_WORDS, where)
    check_values(given)
    if "kind" in given:
        check_name(given["kind"], "kind")
    if "placement" in given and given["placement"] not in PLACEMENTS:
        raise InvalidOption(
            f"placement={given['placement']!r:.160} is no place; say 'standalone' to keep a kind out of processes that "
            "serve requests, or 'anywhere'"
        )
    for word in ("keep", "keep_failed"):
        if word in given and given[word] not in KEPT:
            raise InvalidOption(
                f"{word}={given[word]!r:.160} is nothing to keep of a job; say one of {', '.join(map(repr, KEPT))}"
            )
    if not isinstance(given.get("overtime", False), bool):
        raise InvalidOption(f"overtime={given['overtime']!r:.160} is neither True nor False")
    if "backoff" in given:
        given = {**given, "backoff": as_backoff(given["backoff"])}
    return cast("DefinitionOptions", dict(given))


def stored_options(call: Mapping[str, Any]) -> dict[str, Any] | None:
    """What must travel with one job because only its call said it: its timeout (seconds or None) and backoff."""
    stored: dict[str, Any] = {}
    if "timeout" in call:
        stored["timeout"] = None if call["timeout"] is None else seconds(call["timeout"], "timeout")
    if "backoff" in call:
        stored["backoff"] = backoff_to_json(call["backoff"])
    return stored or None
