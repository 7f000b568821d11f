"""`Dependency[Mailer]`: an input that is never stored, and supplied again where the job runs."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


class _Supplied:
    """The default of a field that is a dependency: `mailer: Dependency[Mailer] = SUPPLIED`. Where the job runs, there is one."""

    def __repr__(self) -> str:
        return "SUPPLIED"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"there is no {name!r} yet: this dependency is supplied where the job runs; to call it now, pass one"
        )


SUPPLIED: Any = _Supplied()
"""The default of a field that is a dependency: `mailer: Dependency[Mailer] = SUPPLIED`. Where the job runs, there is one."""

Dependency = Annotated[T, SUPPLIED]
"""Annotate a field or parameter with `Dependency[Mailer]`: `Jobs(…, provide={Mailer: make_mailer})` supplies it."""


def dependency(annotation: Any) -> Any:
    """The type to supply, or None when *annotation* is an input like any other.

    `Dependency[Mailer | None]` and `Dependency[Mailer] | None`, with None as the default, ask for a Mailer.
    """
    if get_origin(annotation) is Annotated and SUPPLIED in annotation.__metadata__:
        wanted = get_args(annotation)[0]
        some = [each for each in _alternatives(wanted) if each is not NoneType]
        return some[0] if len(some) == 1 else wanted
    if getattr(annotation, "__asyncjobs_supplied__", False):  # what asyncjobs itself supplies
        return annotation
    found = [dependency(each) for each in _alternatives(annotation)]
    return next((each for each in found if each is not None), None)


def may_be_none(annotation: Any) -> bool:
    """Whether a dependency may do without: `Dependency[Mailer | None]`, `Dependency[Mailer] | None`."""
    wanted = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return any(each is NoneType or may_be_none(each) for each in _alternatives(wanted))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """What a union may be; nothing for what is none."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
