"""Methods that asyncjobs finds on an object by their names, and calls: async or sync, all of them optional."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from asyncjobs._define.call import is_generator
from asyncjobs._define.signature import parameters
from asyncjobs.errors import InvalidDefinition

HOOKS: Mapping[str, tuple[str, ...]] = {
    "on_enqueue": (),
    "on_start": (),
    "on_success": ("result",),
    "on_error": ("error",),
    "on_end": (),
    "on_failure": ("error",),
    "on_skip": ("reason",),
    "reschedule_at": ("now", "attempts"),
    "run_context": (),
}
"""What each is passed; one that takes less is passed less."""

RUN_HOOKS = HOOKS.keys() - {"on_enqueue"}


def check_hooks(cls: type, own: Mapping[str, Any]) -> None:
    """Refuse a name in *cls* that looks like a hook and cannot be called as one."""
    for name, given in HOOKS.items():
        if name in own and not (inspect.isfunction(own[name]) and _takes(own[name]) in range(len(given) + 1)):
            raise InvalidDefinition(
                f"{cls.__qualname__}.{name} is called by asyncjobs as {name}({', '.join(given)}); make it a method "
                "that takes that, or name it otherwise"
            )


def hooks_of(cls: type) -> Mapping[str, int]:
    """The hooks that *cls* has, and how many arguments each takes."""
    found = {name: inspect.getattr_static(cls, name, None) for name in HOOKS}
    return {name: _takes(hook) for name, hook in found.items() if inspect.isfunction(hook)}


def _takes(function: Any) -> int:
    """How many arguments *function* takes, besides `self`; -1 where it cannot be called with positions alone."""
    if is_generator(function):
        return -1
    taken = parameters(function, is_method=True)
    if any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in taken):
        return -1
    return sum(
        each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.default is each.empty
        for each in taken
    )
