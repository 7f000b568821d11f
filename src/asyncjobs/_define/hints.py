"""Annotations made into types: when first needed, so that they may refer forward."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Mapping
from typing import Any, ParamSpecArgs, ParamSpecKwargs, TypeVar, get_args, get_origin, get_type_hints

from asyncjobs.errors import InvalidDefinition

Given = Mapping[Any, Any]
"""Type variables, and what stands in their place."""


def hints_of(thing: Any, home: str, given: Given | None = None) -> dict[str, Any]:
    """The annotations of a function, or a class and its bases, as types. Raises InvalidDefinition for unknown names."""
    try:
        hints = get_type_hints(thing, include_extras=True)
    except NameError as error:
        raise InvalidDefinition(
            f"an annotation of {home} cannot be resolved: {error}; define or import that name at the top of its module, "
            "not inside a function and not under `if TYPE_CHECKING`"
        ) from error
    except Exception as error:
        raise InvalidDefinition(f"an annotation of {home} cannot be read: {error}") from error
    return {name: concrete(hint, given or {}) for name, hint in hints.items()}


def field_hints(cls: type, home: str) -> dict[str, Any]:
    """The annotations of a class and its bases, each as its own class' type variables stand in *cls*."""
    hints: dict[str, Any] = {}
    arguments = type_arguments(cls)
    for each in reversed(cls.__mro__[:-1]):
        own = inspect.get_annotations(each)
        if own:
            resolved = hints_of(each, home, arguments.get(each))
            hints.update({name: resolved[name] for name in own})
    return hints


def type_arguments(cls: type) -> dict[type, dict[Any, Any]]:
    """For each base of *cls* its type variables: `class Ints(Export[int])` says that the T of Export is int."""
    arguments: dict[type, dict[Any, Any]] = {}
    for each in cls.__mro__:
        mine = arguments.get(each, {})
        for base in each.__dict__.get("__orig_bases__", ()):
            variables = getattr(get_origin(base), "__parameters__", ())
            given = zip(variables, (concrete(argument, mine) for argument in get_args(base)), strict=False)
            arguments.setdefault(get_origin(base), {}).update(given)
    return arguments


def concrete(annotation: Any, given: Given) -> Any:
    """*annotation* without type variables: what is given for them, else the most they may be."""
    if isinstance(annotation, TypeVar):
        return given[annotation] if annotation in given else _at_most(annotation)
    if isinstance(annotation, (ParamSpecArgs, ParamSpecKwargs)):
        return Any
    variables = getattr(annotation, "__parameters__", ())
    if (
        get_origin(annotation) is None
        or not variables
        or not all(isinstance(each, TypeVar) for each in variables)
    ):
        return annotation
    return annotation[tuple(concrete(each, given) for each in variables)]


def _at_most(variable: Any) -> Any:
    if variable.__bound__ is not None:
        return variable.__bound__
    return functools.reduce(operator.or_, variable.__constraints__) if variable.__constraints__ else Any
