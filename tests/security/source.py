"""The package, read: its trees and what stands in them, once for all tests of a process."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

import asyncjobs

SOURCE = Path(asyncjobs.__file__).parent


@attrs.frozen
class Module:
    """A module of the package."""

    path: str  #: below the package, as `cli/main.py`
    nodes: tuple[ast.AST, ...]

    @property
    def room(self) -> str:
        """The room it is in: `cli`, `_store`, `errors`."""
        return self.path.split("/")[0].removesuffix(".py")

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """What is called, as it is written, and the call."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else "", node

    def imports(self) -> Iterator[str]:
        """The modules it imports, at its top or below."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield str(node.module)


@cache
def modules() -> tuple[Module, ...]:
    """All of them."""
    return tuple(
        Module(path.relative_to(SOURCE).as_posix(), tuple(ast.walk(ast.parse(path.read_text("utf-8")))))
        for path in sorted(SOURCE.rglob("*.py"))
    )
