"""`Dependency[Mailer]`: an input that is never stored, and supplied again where the job runs."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_args, get_origin

T = TypeVar("T")


class _Supplied:
    def __repr__(self) -> str:
        return "supplied"


SUPPLIED = _Supplied()

Dependency = Annotated[T, SUPPLIED]
"""Annotate a field or parameter with `Dependency[Mailer]`: `Jobs(…, provide={Mailer: make_mailer})` supplies it."""


def dependency(annotation: Any) -> Any:
    """The type to supply, or None when *annotation* is an input like any other."""
    if get_origin(annotation) is Annotated and SUPPLIED in annotation.__metadata__:
        return get_args(annotation)[0]
    return None
