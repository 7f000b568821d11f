"""`unique=`: of the jobs that are alike by a key, one waits, or one is unfinished, or one comes in a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import attrs

from asyncjobs._model.durations import Duration, seconds
from asyncjobs._model.keys import key_names
from asyncjobs.errors import InvalidOption

Conflict = Literal["return", "replace", "reschedule", "reject"]


@attrs.frozen(init=False)
class Unique:
    """Of the jobs that are alike, one is in the queue: a second one is not stored, and its handle is the first one's.

    Alike are jobs with equal *names*: inputs, or attributes, properties or methods of the object; without names, with equal
    inputs. They are compared inside their kind and method, or across all that name the same *namespace*. *key*, instead of
    names, is the key itself.

    *until* the job starts, or ends (all its attempts); *window* is the least time from the enqueue, whether it has ended or not.
    *on_conflict* says what becomes of the one that waits: it is left as it is ("return"), gets the new one's inputs ("replace"),
    or time ("reschedule"), or both, given as a tuple; "reject" raises DuplicateJob.
    """

    names: tuple[str, ...]
    key: str | None
    namespace: str | None
    until: Literal["start", "end"]
    window: float | None  #: seconds
    on_conflict: tuple[Conflict, ...]

    def __init__(
        self,
        *names: str,
        key: str | None = None,
        namespace: str | None = None,
        until: Literal["start", "end"] = "start",
        window: Duration | None = None,
        on_conflict: Conflict | Sequence[Conflict] = "return",
    ) -> None:
        if names:
            key_names(names, "Unique")
        if names and key is not None:
            raise InvalidOption(
                f"Unique({', '.join(map(repr, names))}, key={key!r:.60}) has two keys; give one of them"
            )
        for word, text in (("namespace", namespace), ("key", key)):
            if text is not None and not isinstance(text, str):
                raise InvalidOption(f"{word}={text!r:.60} of a Unique is not text")
        if until not in ("start", "end"):
            raise InvalidOption(f"until={until!r} of a Unique is neither 'start' nor 'end'")
        length = None if window is None else seconds(window, "window")
        if length == 0:
            raise InvalidOption("window=0 of a Unique is no time; leave it out")
        conflicts = (on_conflict,) if isinstance(on_conflict, str) else tuple(on_conflict)
        for each in conflicts:
            if each not in get_args(Conflict):
                raise InvalidOption(
                    f"on_conflict={each!r:.60} of a Unique is none of {', '.join(map(repr, get_args(Conflict)))}"
                )
        if not conflicts or (len(conflicts) > 1 and set(conflicts) != {"replace", "reschedule"}):
            raise InvalidOption(
                f"on_conflict={on_conflict!r} of a Unique contradicts itself; only 'replace' and 'reschedule' go together"
            )
        self.__attrs_init__(tuple(names), key, namespace, until, length, conflicts)


UniqueLike = str | Sequence[str] | bool | Unique | None
"""A name, several, True for all inputs, a Unique; None or False for no key."""


def unique_of(value: Any) -> Unique | None:
    """What *value* of `unique=` means. Raises InvalidOption."""
    if value is None or value is False:
        return None
    if isinstance(value, Unique):
        return value
    return Unique(*key_names(value, "unique"))
