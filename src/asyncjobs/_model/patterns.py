"""Patterns that mean the same in Python and in Postgres: globs of names, and the common part of regular expressions.

Events are matched in the database, so a pattern is written once more in its words. What the two read differently
(references back, looking around, flags, classes by language) is refused where the pattern is written; what is left never
makes Postgres slow.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from asyncjobs.errors import InvalidOption

MOST = 1000  #: characters of a pattern
MOST_TIMES = 255  #: Postgres counts no further in `{…}`
MOST_ATOMS = (
    2000  #: characters and classes, written out as often as `{…}` counts: that is how Postgres reads them
)

_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
_CONTROLS = frozenset("tnrfv")
_TIMES = re.compile(r"\{(?!\})([0-9]*)(?:(,)([0-9]*))?\}")
_SPECIAL = frozenset(r"\^$.[]|()?*+{}")


def is_glob(name: str) -> bool:
    """Whether *name* stands for more than one."""
    return "*" in name or "?" in name


def glob_to_like(glob: str) -> str:
    """*glob* (`*`: any text, `?`: one character) as a pattern of LIKE."""
    return re.sub(r"[%_\\]", r"\\\g<0>", glob).replace("*", "%").replace("?", "_")


def glob_to_regex(glob: str) -> re.Pattern[str]:
    """*glob* as a regular expression of Python's."""
    parts = {"*": ".*", "?": "."}
    return re.compile(r"\A" + "".join(parts.get(each) or re.escape(each) for each in glob) + r"\Z", re.DOTALL)


def as_read_here(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """*pattern* as it is meant: with the digits, letters and blanks of ASCII."""
    return re.compile(pattern.pattern, re.ASCII)


def to_postgres(pattern: re.Pattern[Any], what: str) -> str:
    """*pattern* as Postgres reads it. Raises InvalidOption for what the two would not read alike."""
    if not isinstance(pattern.pattern, str) or pattern.flags & ~(re.UNICODE | re.ASCII):
        raise InvalidOption(
            f"{what}={pattern!r:.160} has flags or is of bytes; a pattern that the database matches is text without flags"
        )
    if "\0" in pattern.pattern or any("\ud800" <= char <= "\udfff" for char in pattern.pattern):
        raise InvalidOption(
            f"{what}={pattern.pattern!r:.160} holds a NUL or a lone surrogate, which no text in the database does"
        )
    if len(pattern.pattern) > MOST:
        raise InvalidOption(
            f"{what} is a pattern of {len(pattern.pattern):,} characters; use at most {MOST:,}"
        )
    return _Translation(pattern.pattern, what).made()


class _Translation:
    """One pattern, read from left to right."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self._at = 0
        self._repeatable = False  #: what was read last may be said to come several times
        self._atoms = [0]  #: in the pattern, and in each group that is open
        self._last = 0  #: how many of them what was read last has

    def made(self) -> str:
        parts = []
        while self._at < len(self._text):
            parts.append(self._next())
        if self._atoms[0] > MOST_ATOMS:
            self._refuse(f"counts up to {self._atoms[0]:,} characters, and {MOST_ATOMS:,} are the most")
        return "".join(parts)

    def _refuse(self, why: str) -> NoReturn:
        raise InvalidOption(
            f"{self._what}={self._text!r:.160} {why}; the database matches it, so use letters, classes, groups, alternatives "
            "and repetitions"
        )

    def _next(self) -> str:
        text, at = self._text, self._at
        char = text[at]
        self._at += 1
        if char in "*+?" or (char == "{" and _TIMES.match(text, at)):
            return self._times(char)
        if char in "|(":
            self._repeatable = False
            if char == "(":
                self._atoms.append(0)
            if text.startswith("(?:", at):
                self._at += 2
                return "(?:"
            if text.startswith("?", self._at):
                self._refuse(f"holds {text[at : at + 4]!r}, which Postgres reads otherwise")
            return char
        self._repeatable = char not in "^$"
        self._last = self._atoms.pop() if char == ")" else 1
        self._atoms[-1] += self._last
        match char:
            case "\\":
                return self._escaped()
            case "[":
                return self._class()
            case ".":
                return r"[^\n]"
            case "$":
                return r"(?=\n?\Z)"
            case "^" | ")":
                return char
        return _plain(char)

    def _times(self, char: str) -> str:
        if not self._repeatable:
            self._refuse(f"repeats what cannot be repeated, at {self._at - 1}")
        self._repeatable = False
        times = char
        if char == "{":
            found = _TIMES.match(self._text, self._at - 1)
            assert found is not None
            least, many, most = int(found[1] or 0), found[2] or "", found[3]
            highest = max(least, int(most or 0))
            if highest > MOST_TIMES:
                self._refuse(f"counts beyond {MOST_TIMES}")
            self._atoms[-1] += self._last * max(highest - 1, 0)
            self._at = found.end()
            times = f"{{{least}{many}{int(most) if most else ''}}}"
        follows = self._text[self._at : self._at + 1]
        if follows == "?":  # as few as possible: the same answer
            self._at += 1
        elif follows == "+":
            self._refuse("repeats without going back (`+` behind a repetition)")
        return times

    def _escaped(self) -> str:
        char = self._text[self._at]
        self._at += 1
        if char in _CLASSES:
            return f"[{_CLASSES[char]}]"
        if char in "AZ":
            self._repeatable = False
            return "\\" + char
        if char in _CONTROLS:
            return "\\" + char
        if char.isalnum() or not char.isascii():
            self._refuse(f"holds \\{char}, which Postgres reads otherwise")
        return _plain(char)

    def _class(self) -> str:
        parts = ["["]
        if self._text[self._at] == "^":
            self._at += 1
            parts.append("^")
        first = True
        while first or self._text[self._at] != "]":
            first = False
            parts.append(self._member())
        self._at += 1
        return "".join((*parts, "]"))

    def _member(self) -> str:
        """A character of a class, or a range of them."""
        begin = self._one()
        if len(begin) > 2 or self._text[self._at] != "-" or self._text[self._at + 1] == "]":
            return begin
        self._at += 1
        return f"{begin}-{self._one()}"

    def _one(self) -> str:
        char = self._text[self._at]
        self._at += 1
        if char == "[":
            self._refuse("holds a '[' inside a class; write \\[ there")
        if char != "\\":
            return _in_class(char)
        char = self._text[self._at]
        self._at += 1
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return "\\" + char
        if char.isalnum() or not char.isascii():
            self._refuse(f"holds \\{char} inside a class, which Postgres reads otherwise")
        return _in_class(char)


def _plain(char: str) -> str:
    return "\\" + char if char in _SPECIAL else char


def _in_class(char: str) -> str:
    return "\\" + char if char in r"\]^-[" else char
