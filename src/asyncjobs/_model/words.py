"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """*number* of them, in words: `1 job`, `2,000 jobs`, `3 kinds of jobs` for a "kind of jobs"."""
    if number != 1:
        first, blank, rest = noun.partition(" ")
        noun = f"{first}s{blank}{rest}"
    return f"{number:,} {noun}"
