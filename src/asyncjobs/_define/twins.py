"""Slots classes are created twice: attrs and `dataclass(slots=True)` make a second class from a copy of the first one's body.

The second replaces the first. `super()` in its methods still means the first one, in a cell the compiler made; attrs mends
the methods it knows, dataclasses mend none before Python 3.14.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partialmethod
from types import CellType, FunctionType
from typing import Any


def point_super_at(cls: type) -> None:
    """Make `super()` in the methods of *cls* mean *cls*, where it means the first class of that name and body."""
    for value in list(vars(cls).values()):
        for cell in _cells(value):
            try:
                held = cell.cell_contents
            except ValueError:  # empty as yet
                continue
            if isinstance(held, type) and held is not cls and _is_twin(held, cls):
                cell.cell_contents = cls


def _is_twin(first: type, second: type) -> bool:
    names = (first.__module__, first.__qualname__, first.__bases__)
    return names == (second.__module__, second.__qualname__, second.__bases__)


def _cells(value: Any) -> Iterator[CellType]:
    """The cells of a function, and of those that a property, a decorator or a class method holds."""
    inner: list[Any]
    match value:
        case property():
            inner = [value.fget, value.fset, value.fdel]
        case staticmethod() | classmethod():
            inner = [value.__func__]
        case cached_property() | partialmethod():
            inner = [value.func]
        case _:  # not `getattr`: whatever stands in a class body may answer to any name
            inner = [getattr(value, "__dict__", {}).get("__wrapped__")]
            if isinstance(value, FunctionType):
                yield from value.__closure__ or ()
    for function in inner:
        if function is not None:
            yield from _cells(function)
