"""Whether a test uses the public API alone: nothing of a module with an underscore, and no name with one.

It is followed into what it calls: functions, classes and fixtures of its module, of the conftests above it and of `tests`. What
only keeps tests apart, or stands for somebody else, is ALLOWED.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

from tests.catalogue.markers import TESTS

ALLOWED = {
    ("asyncjobs._keeper.vigilance", "Vigilance"),  # ten seconds that a test need not wait
    ("tests.kinds", "forgotten"),  # kinds are known per process
    ("tests.subscriptions", "only"),  # and so are subscriptions
    ("tests.subscriptions", "taken"),
}


@attrs.frozen
class Module:
    """What a file of tests defines, and what it imports."""

    path: Path
    defined: dict[str, ast.AST]
    imported: dict[str, tuple[str, str]]


@cache
def module(path: Path) -> Module:
    tree = ast.parse(path.read_text("utf-8"))
    defined: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = [each for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            defined.update(dict.fromkeys([each.id for each in named], node))
    return Module(path, defined, _imports(tree.body))


def _imports(nodes: list[ast.stmt] | list[ast.AST]) -> dict[str, tuple[str, str]]:
    return {
        name.asname or name.name: (node.module or "", name.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def private_in(test: str) -> set[str]:
    """What *test*, as `file::name`, reaches that is not public."""
    file, _, name = test.partition("::")
    home = module(TESTS / file)
    return set(_private(home, home.defined[name], set()))


def _private(home: Module, node: ast.AST, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:
        return
    seen.add(id(node))
    inside = list(ast.walk(node))
    imported = {**home.imported, **_imports(inside)}
    names = {each.id for each in inside if isinstance(each, ast.Name)}
    names |= {each.arg for each in inside if isinstance(each, ast.arg)}
    for each in inside:
        if isinstance(each, ast.Attribute) and _is_private(each):
            yield f"{home.path.name}:{each.lineno}: {ast.unparse(each)}"
    for name in names:
        if name in imported:
            yield from _of_another(*imported[name], seen)
        elif name in home.defined:
            yield from _private(home, home.defined[name], seen)
        else:  # a fixture, perhaps
            for conftest in _conftests(home.path):
                if name in conftest.defined and conftest is not home:
                    yield from _private(conftest, conftest.defined[name], seen)
                    break


def _is_private(each: ast.Attribute) -> bool:
    is_own = isinstance(each.value, ast.Name) and each.value.id in ("self", "cls")
    return each.attr.startswith("_") and not each.attr.startswith("__") and not is_own


def _of_another(of: str, name: str, seen: set[int]) -> Iterator[str]:
    if of.startswith("asyncjobs._") and (of, name) not in ALLOWED:
        yield f"{of}.{name}"
    path = TESTS.parent / f"{of.replace('.', '/')}.py"
    if of.startswith("tests.") and path.exists() and (of, name) not in ALLOWED:
        other = module(path)
        if name in other.defined:
            yield from _private(other, other.defined[name], seen)


def _conftests(path: Path) -> Iterator[Module]:
    for folder in path.parents:
        if (folder / "conftest.py").exists():
            yield module(folder / "conftest.py")
        if folder == TESTS:
            return
