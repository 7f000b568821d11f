"""`lock=`: of the jobs that are alike by a key, so many run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from asyncjobs._model.keys import key_names
from asyncjobs.errors import InvalidOption

MOST_SLOTS = 1000


@attrs.frozen(init=False)
class Lock:
    """Of the jobs that are alike, at most *slots* run at a time, in all processes; the others wait, blocked.

    Alike are jobs with equal *names*: inputs, or attributes, properties or methods of the object; without names, with equal inputs.
    They are compared inside their kind, or across all kinds that name the same *namespace*. *key*, instead of names, is the
    key itself.
    """

    names: tuple[str, ...]
    namespace: str | None
    slots: int
    key: str | None

    def __init__(
        self, *names: str, namespace: str | None = None, slots: int = 1, key: str | None = None
    ) -> None:
        if names:
            key_names(names, "Lock")
        if names and key is not None:
            raise InvalidOption(
                f"Lock({', '.join(map(repr, names))}, key={key!r:.60}) has two keys; give one of them"
            )
        for word, text in (("namespace", namespace), ("key", key)):
            if text is not None and not isinstance(text, str):
                raise InvalidOption(f"{word}={text!r:.60} of a Lock is not text")
        if type(slots) is not int or not 1 <= slots <= MOST_SLOTS:
            raise InvalidOption(f"slots={slots!r} of a Lock is not a number from 1 to {MOST_SLOTS}")
        self.__attrs_init__(tuple(names), namespace, slots, key)


LockLike = str | Sequence[str] | bool | Lock | None
"""A name, several, True for all inputs, a Lock; None or False for no lock."""


def lock_of(value: Any) -> Lock | None:
    """The lock meant by *value* of `lock=`. Raises InvalidOption."""
    if value is None or value is False:
        return None
    if isinstance(value, Lock):
        return value
    return Lock(*key_names(value, "lock"))
