"""`fair=`: jobs that are alike by a key share a turn, and the keys of a queue take turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncjobs._model.keys import key_names
from asyncjobs.errors import InvalidOption

FairLike = str | Sequence[str] | None
"""A name, or several: inputs, or attributes, properties or methods of the object; None: it waits for nobody's turn."""


def fair_names(value: Any) -> tuple[str, ...]:
    """What is meant by *value* of `fair=`; nothing: no turns. Raises InvalidOption."""
    if value is None or value is False:
        return ()
    if value is True:
        raise InvalidOption(
            "fair=True would give each job a turn of its own; name what those have in common that are to share one, as in "
            "fair='tenant'"
        )
    return key_names(value, "fair")
