"""The name a kind is stored under: the version of its inputs' shape is part of it, from the second on.

So each version waits in a lane of its own, and a process claims those that it can read: what newer code has stored is left to
newer code, and costs older code nothing.
"""

from __future__ import annotations

import re

MOST_VERSIONS = 1000

_VERSIONED = re.compile(r"(.+)@([1-9]\d{0,3})", re.DOTALL)


def stored_name(kind: str, version: int) -> str:
    """`shop:Invoice`; from version 2 on `shop:Invoice@2`."""
    return kind if version == 1 else f"{kind}@{version}"


def name_and_version(stored: str) -> tuple[str, int]:
    """What `stored_name` was made of."""
    found = _VERSIONED.fullmatch(stored) if "@" in stored else None
    return (stored, 1) if found is None else (found[1], int(found[2]))
