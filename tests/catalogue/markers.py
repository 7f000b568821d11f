"""Which tests carry a marker, found by reading their files: as quick as that, and independent of what is selected."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def covering(marker: str, tests: Path = TESTS) -> dict[str, list[str]]:
    """For each id that a `pytest.mark.<marker>("…")` names: the tests, as `file::name`, in order."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text()
        if marker not in text:
            continue
        file = path.relative_to(tests).as_posix()
        for ids, test in _marked(ast.parse(text), marker):
            for each in ids:
                named = found.setdefault(each, [])
                if f"{file}::{test}" not in named:
                    named.append(f"{file}::{test}")
    return found


def _marked(module: ast.Module, marker: str) -> Iterator[tuple[list[str], str]]:
    everywhere = [
        each
        for statement in module.body
        if isinstance(statement, ast.Assign) and _assigns(statement, "pytestmark")
        for each in _ids(statement.value, marker)
    ]
    scopes: list[ast.Module | ast.ClassDef] = [module]
    scopes += [each for each in module.body if isinstance(each, ast.ClassDef)]
    for scope in scopes:
        for statement in scope.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                ids = [each for decorator in statement.decorator_list for each in _ids(decorator, marker)]
                if statement.name.startswith("test_"):
                    yield everywhere + ids, statement.name
                elif ids:
                    raise ValueError(f"{statement.name} is marked as {ids}, and is no test")
            elif isinstance(statement, ast.Assign) and _is_machine(statement):
                # hypothesis: `TestJobs = Machine.TestCase`
                yield everywhere, _target(statement)


def _assigns(statement: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)


def _is_machine(statement: ast.Assign) -> bool:
    return isinstance(statement.value, ast.Attribute) and statement.value.attr == "TestCase"


def _target(statement: ast.Assign) -> str:
    (target,) = statement.targets
    assert isinstance(target, ast.Name)
    return target.id


def _ids(tree: ast.AST, marker: str) -> list[str]:
    """The literal arguments of every `….<marker>(…)` below *tree*."""
    ids = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == marker:
            for argument in node.args:
                if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                    raise ValueError(f"line {node.lineno}: {marker} takes its ids as literal strings")
                ids.append(argument.value)
    return ids
