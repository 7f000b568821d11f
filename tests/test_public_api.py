"""What the package shows: every name meant, documented, and at home where users look for it."""

from __future__ import annotations

import copy
import enum
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import types
import typing
from typing import Any

import attrs
import pytest

import asyncjobs
from asyncjobs import errors

PUBLIC = {name: getattr(asyncjobs, name) for name in asyncjobs.__all__}


def test_all_is_sorted_and_complete() -> None:
    """Whatever the package imports for its users is in `__all__`, once and in order."""
    names = {
        name
        for name, value in vars(asyncjobs).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert list(asyncjobs.__all__) == sorted(names)


def test_every_error_is_public() -> None:
    """In the package, in the module of errors, and in the tree drawn at its top."""
    raised = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert raised <= set(asyncjobs.__all__)
    assert errors.__doc__ is not None
    drawn = {word for word in errors.__doc__.replace("│", " ").split() if word in raised}
    assert drawn == raised - {"RemoteTraceback"}  # a picture of another process' error


def public_members(thing: Any) -> dict[str, Any]:
    """What a class shows of its own."""
    return {
        name: getattr(thing, name)
        for name in vars(thing)
        if not name.startswith("_")
        and (callable(getattr(thing, name)) or isinstance(vars(thing)[name], property))
    }


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if name not in ("Dependency", "current_locale", "current_timezone")]
)  # a type alias and a variable have no place for one
def test_every_public_thing_is_documented(name: str) -> None:
    """With a docstring of its own, and so are its methods."""
    thing = PUBLIC[name]
    assert vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    is_plain = typing.is_typeddict(thing) or thing is asyncjobs.Connection  # words and a driver's own methods
    if inspect.isclass(thing) and not issubclass(thing, enum.Enum) and not is_plain:
        undocumented = {
            member for member, value in public_members(thing).items() if not inspect.getdoc(value)
        }
        assert undocumented == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_signatures_name_no_private_module(name: str) -> None:
    """What `help` prints is what users can write."""
    thing = PUBLIC[name]
    shown = [thing, *(public_members(thing).values() if inspect.isclass(thing) else ())]
    for each in shown:
        if inspect.isroutine(each) or (inspect.isclass(each) and not issubclass(each, type)):
            try:
                signature = str(inspect.signature(each))
            except ValueError:  # built in
                continue
            assert "asyncjobs._" not in signature
            assert " at 0x" not in signature


def test_only_rooms_are_private() -> None:
    """A module without an underscore is for users, and there are few."""
    found = {each.name for each in pkgutil.iter_modules(asyncjobs.__path__) if not each.name.startswith("_")}
    assert found <= {"cli", "demo", "embedded", "errors", "py", "testing"}
    assert (importlib.import_module("importlib.resources").files("asyncjobs") / "py.typed").is_file()


def test_importing_brings_no_framework_along() -> None:
    """Neither a web framework, nor an ORM, nor a driver one does not use."""
    code = (
        "import sys, asyncjobs\n"
        "heavy = {'sqlalchemy', 'psycopg', 'starlette', 'fastapi', 'litestar', 'uvicorn', 'rich', 'httpx', 'uvloop'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# Errors.

MADE: list[Exception] = [
    errors.InvalidInput("a sentence"),
    errors.SchemaMissing("asyncjobs"),
    errors.SchemaTooOld("asyncjobs", 1, 2),
    errors.SchemaTooNew("asyncjobs", 3, 2),
    errors.JobNotFound(7),
    errors.ScheduleExists("nightly"),
    errors.JobFailed("job 7 failed", 7),
    errors.JobCancelled("job 7 was cancelled", 7),
    errors.JobSkipped("job 7 was skipped", 7),
    errors.LeaseLost(7),
    errors.AlreadyCompleted(7),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_errors_can_be_copied_and_pickled(error: Exception) -> None:
    """They cross a process pool, and say the same on the other side."""
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))


def test_every_error_is_also_a_builtin_one() -> None:
    """Who knows nothing of asyncjobs can catch it for what it is."""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.JobsError) and value is not errors.JobsError:
            builtin = [base for base in value.__mro__ if base.__module__ == "builtins"]
            assert builtin[0] not in (Exception, BaseException), name


def test_values_are_frozen() -> None:
    """What is handed out does not change behind anybody's back."""
    for cls in (
        asyncjobs.Handle,
        asyncjobs.Job,
        asyncjobs.AttemptError,
        asyncjobs.Exponential,
        asyncjobs.Constant,
    ):
        assert attrs.has(cls)
        assert cls.__setattr__ is not object.__setattr__
