"""What a key is made of: the words of `unique=`, `lock=`, `fair=` and `rate=` have this in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from asyncjobs.errors import InvalidOption


class KeyRule(Protocol):
    """How the key of a job is made: from chosen names, from all its inputs (no names), or as it was given."""

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs, attributes, properties or methods; none: all inputs."""

    @property
    def key(self) -> str | None:
        """The key itself, given with the call."""

    @property
    def namespace(self) -> str | None:
        """Keys are alike only inside one; None: the kind's own."""


KEY_WORDS = ("unique", "lock", "fair", "rate")
"""The options that make a key."""


def key_names(value: object, what: str) -> tuple[str, ...]:
    """`"tenant"`, `("tenant", "year")` or True (all inputs: no names), as names. Raises InvalidOption."""
    if value is True:
        return ()
    names = (value,) if isinstance(value, str) else value
    if isinstance(names, Sequence) and names and all(isinstance(each, str) and each for each in names):
        if len(set(names)) < len(names):
            raise InvalidOption(f"{what}={value!r} names something twice")
        return tuple(names)
    raise InvalidOption(
        f"{what}={value!r:.160} does not say what makes two jobs alike; name inputs or attributes, as in {what}='tenant' or "
        f"{what}=('tenant', 'year'), or say {what}=True for all inputs"
    )


def named_in(value: Any) -> tuple[str, ...]:
    """The names in a short or a full form that was checked."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(value)
    names: tuple[str, ...] = getattr(value, "names", ())
    return names


def key_words(options: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Which options of *options* make keys, and from which names."""
    return [(word, named_in(options[word])) for word in KEY_WORDS if options.get(word)]
