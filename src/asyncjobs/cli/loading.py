"""Find the Jobs in the user's code, and say in the user's words why it cannot be found."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from asyncjobs._app import Jobs
from asyncjobs.cli.exits import Exit, Refused

FRAMES = 3  #: of the traceback of a module that cannot be imported: its end, where the error is


def load(app: str) -> Jobs:
    """The Jobs that *app*, `module:attribute`, names. Raises Refused."""
    module_name, _, attribute = app.partition(":")
    if not module_name or not attribute or "/" in app or module_name.endswith(".py"):
        raise Refused(f"APP is written module:attribute, as in myapp.main:jobs, not {app!r}", Exit.USAGE)
    _see_working_directory()
    found: Any = _import(module_name)
    module: ModuleType = found
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise Refused(f"{app}: {module_name} has no {attribute!r}{_hint(module, attribute)}", Exit.USAGE)
        found = getattr(found, name)
    if inspect.isfunction(found):  # not whatever can be called: web applications can, and jobs
        found = _call(found, app)
    if not isinstance(found, Jobs):
        raise Refused(
            f"{app} is {_a(type(found).__name__)}, not a Jobs{_hint(module, attribute)}", Exit.USAGE
        )
    return found


def _see_working_directory() -> None:
    """As `python -m` does, also for the installed command."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            where = f"in {Path.cwd()} or among the installed packages"
            raise Refused(
                f"there is no module {missing!r} {where}; go to the folder it is in, or install it",
                Exit.USAGE,
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _call(factory: Any, app: str) -> Any:
    try:
        return factory()
    except Exception as error:
        raise Refused(
            f"calling {app} failed: {type(error).__name__}: {error}", Exit.USAGE, details=_end_of(error)
        ) from error


def _broken(name: str, error: BaseException) -> Refused:
    return Refused(
        f"{name} cannot be imported: {type(error).__name__}: {error}; try `python -c 'import {name}'`",
        Exit.USAGE,
        details=_end_of(error),
    )


def _end_of(error: BaseException) -> str:
    """The end of its traceback, without the machinery of importing."""
    pictured = traceback.TracebackException.from_exception(error)
    user_frames = [
        frame
        for frame in pictured.stack
        if "importlib" not in frame.filename and Path(frame.filename) != Path(__file__)
    ]
    pictured.stack = traceback.StackSummary.from_list(user_frames[-FRAMES:])
    return "".join(pictured.format(chain=False))


def _hint(module: ModuleType, attribute: str) -> str:
    here = sorted(name for name, value in vars(module).items() if isinstance(value, Jobs))
    if here:
        return f"; did you mean {' or '.join(f'{module.__name__}:{name}' for name in here)}?"
    near = get_close_matches(attribute, vars(module), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
