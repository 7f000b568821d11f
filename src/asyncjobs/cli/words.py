"""Words of the command line as values: inputs by their declared types, durations, moments, queues."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, NewType, NoReturn, get_args, get_origin

import click

from asyncjobs._define.codec import _name, _where
from asyncjobs._define.storable import storable
from asyncjobs._model.urgency import thresholds
from asyncjobs.errors import InvalidOption

if TYPE_CHECKING:
    _Word = click.ParamType[Any]
else:
    _Word = click.ParamType  # older versions are not generic

_INPUT = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)


def is_input(word: str) -> bool:
    """Whether it is written name=value."""
    return _INPUT.fullmatch(word) is not None


def read_inputs(words: Iterable[str], types: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`name=value` words as values of the declared *types*. Raises click.UsageError."""
    values: dict[str, Any] = {}
    for word in words:
        match = _INPUT.fullmatch(word)
        if match is None:
            raise click.UsageError(f"inputs are written name=value, not {word!r}")
        name, text = match.groups()
        if name not in types:
            raise click.UsageError(f"{what} has no input {name!r}{_hint(name, types)}")
        if name in values:
            raise click.UsageError(f"{name} is given twice")
        values[name] = _read(name, text, types[name])
    return values


def _read(name: str, text: str, declared: Any) -> Any:
    """Text stays text where text is declared; else it is JSON, and where that does not fit, text: a date, a UUID, a word."""
    tries: list[Any] = [text]
    if not _is_text(declared):
        with suppress(ValueError):
            tries.insert(
                0, json.loads(text, parse_constant=_no_constant)
            )  # not orjson: it rounds large integers
    field = storable(declared)
    errors: list[Exception] = []
    for value in tries:
        try:
            return field.read(value, declared)
        except Exception as error:
            errors.append(error)
    # A list or an object was meant as one; anything else is best spoken of as it was typed.
    place, why = _where(errors[0 if isinstance(tries[0], list | dict) else -1])
    raise click.UsageError(
        f"{name}={_short(text)} does not fit {_name(declared)}{f' at {place}' if place else ''}: {why}"
    )


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _is_text(declared: Any) -> bool:
    while True:
        if isinstance(declared, NewType):
            declared = declared.__supertype__
        elif get_origin(declared) is Annotated:
            declared = get_args(declared)[0]
        else:
            return declared is str


def _hint(name: str, types: Mapping[str, Any]) -> str:
    near = get_close_matches(name, types, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    takes = ", ".join(f"{name}: {_name(declared)}" for name, declared in types.items())
    return f"; it takes {takes or 'none'}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"


class DurationWord(_Word):
    """A span of time: `90`, `90s`, `5m`, `1h30m`, `2d`."""

    name = "duration"
    _UNITS: Mapping[str, float] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
    _PART = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        parts = self._PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a span of time such as 90, 90s, 5m, 1h30m or 2d", param, ctx)
        return sum(float(number) * self._UNITS[unit] for number, unit in parts)


class MomentWord(_Word):
    """A moment, with its time zone: `2027-01-31T09:00+01:00`."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a moment such as 2027-01-31T09:00+01:00", param, ctx)
        if moment.utcoffset() is None:
            self.fail(
                f"{value!r} has no time zone, so it names no moment; add one, as in +01:00 or Z", param, ctx
            )
        return moment


class QueuesWord(_Word):
    """Queues, some with slots of their own: `exports:4,mail`."""

    name = "queues"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"{value!r} names queues as in exports,mail or exports:4,mail", param, ctx)
        queues = tuple(map(_queue, parts))
        if any(":" in queue for queue, _ in queues):
            self.fail(
                f"{value!r} has a colon that is followed by no number of slots, or by two; it is written exports,mail or "
                "exports:4,mail",
                param,
                ctx,
            )
        return queues


def _queue(part: str) -> tuple[str, int | None]:
    name, colon, number = part.rpartition(":")
    return (name, int(number)) if colon and number.isdecimal() else (part, None)


class PoolWord(_Word):
    """Queues that share slots: `exports,mail:2`; `*` or nothing is every queue, and one slot is enough."""

    name = "pool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        names, colon, count = value.rpartition(":")
        if not colon:
            names, count = value, "1"
        if not count.isdecimal():
            self.fail(f"{value!r} is written QUEUE,QUEUE:SLOTS, as exports,mail:2 or *:4", param, ctx)
        queues = tuple(name.strip() for name in names.split(",")) if names.strip() else ("*",)
        if not all(queues):
            self.fail(f"{value!r} names queues as in exports,mail:2", param, ctx)
        if any(":" in queue for queue in queues):
            self.fail(
                f"{value!r}: the queues of a pool share its slots, so their number is said once, at the end, as in exports,mail:2; "
                "slots of its own for each are said with --queues exports:2,mail:1",
                param,
                ctx,
            )
        return queues, int(count)


def merge_pools(
    queues: dict[str, int | None] | None, pools: Iterable[tuple[tuple[str, ...], int]]
) -> dict[Any, int | None] | None:
    """What --queues and --pool say together; the same pool twice has twice the slots."""
    merged: dict[Any, int | None] = dict(queues or {})
    for names, count in pools:
        key = tuple(sorted(set(names)))
        merged[key] = (merged.get(key) or 0) + count
    return merged or None


class SlotsWord(_Word):
    """A number of slots, or the threshold of each: `10,30,50,any,any,any`."""

    name = "slots"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            number = int(value)
        except ValueError:
            try:
                thresholds(value)
            except InvalidOption as error:
                self.fail(str(error), param, ctx)
            return value
        if not 1 <= number <= 10_000:
            self.fail(f"{number} is not in the range 1<=x<=10000.", param, ctx)
        return number


def merge_queues(given: Iterable[Iterable[tuple[str, int | None]]]) -> dict[str, int | None] | None:
    """What several `QueuesWord` say together; None when nothing was said. Raises click.UsageError."""
    queues: dict[str, int | None] = {}
    for queue, slots in (pair for pairs in given for pair in pairs):
        if queue in queues:
            raise click.UsageError(f"queue {queue!r} is named twice")
        queues[queue] = slots
    return queues or None
