"""What a kind was before: the names it had, the names its methods had, and the shapes in which its inputs were stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from asyncjobs._define.call import is_async
from asyncjobs._define.faithful import shorten
from asyncjobs._model.options import Upcaster, check_name
from asyncjobs._model.versions import MOST_VERSIONS, name_and_version, stored_name
from asyncjobs.errors import InvalidOption, UndecodableInput


@attrs.frozen
class History:
    """What a kind was before."""

    version: int = 1  #: of the shape of its inputs, today
    upcasters: Mapping[int, Upcaster] = attrs.field(factory=dict)  #: by the version they start from
    aliases: Sequence[str] = ()  #: the kinds it was, the first of them first
    renamed: Mapping[str, str] = attrs.field(factory=dict)  #: former names of its methods, and today's

    def first_name(self, kind: str) -> str:
        """What *kind* was called at first: the names of its keys begin with that, so that they outlast a renaming."""
        return self.aliases[0] if self.aliases else kind

    def first_method(self, method: str) -> str:
        """The first of the former names of *method*, for the same reason."""
        return next((former for former, today in self.renamed.items() if today == method), method)

    def stored_names(self, kind: str) -> Iterator[tuple[str, int]]:
        """All names under which jobs of *kind* may be stored that this code can read, each with its version."""
        for name in (kind, *self.aliases):
            for version in range(1, self.version + 1):
                yield stored_name(name, version), version

    def upcast(self, inputs: dict[str, Any], version: int, kind: str) -> dict[str, Any]:
        """*inputs* that were stored at *version*, as they would be stored today. Raises UndecodableInput."""
        for number in range(version, self.version):
            step = self.upcasters.get(number)
            if step is None:
                raise UndecodableInput(
                    f"{kind}: nothing makes version {number + 1} of inputs of version {number}; add it to upcasters=",
                    reason="no upcaster",
                )
            try:
                inputs = dict(step(inputs))
            except Exception as error:
                raised = f"{kind}: what makes version {number + 1} of inputs of version {number} raised {type(error).__name__}"
                raise UndecodableInput(
                    f"{raised}: {str(error)[:300]}", reason="upcaster fails", discreet=raised
                ) from error
        return inputs


NO_HISTORY = History()


def history_of(own: Mapping[str, Any], merged: Mapping[str, Any]) -> History:
    """The history that options say, checked: former names are nobody's but its *own*; the rest may be inherited."""
    aliases, renamed = own.get("aliases"), merged.get("renamed")
    version = merged.get("version", 1)
    if not aliases and not renamed and version == 1:
        return NO_HISTORY
    return History(version, merged.get("upcasters") or {}, tuple(aliases or ()), renamed or {})


def check_history(given: Mapping[str, Any], where: str) -> None:
    """Refuse a history that makes no sense, where it is written."""
    if "kind" in given:
        _check_plain(given["kind"], "kind")
    if "aliases" in given:
        _check_aliases(given["aliases"])
    if "renamed" in given:
        _check_renamed(given["renamed"])
    if "version" in given or "upcasters" in given:
        _check_versions(given.get("version", 1), given.get("upcasters") or {}, where)


def _check_plain(name: object, what: str) -> None:
    kind, version = name_and_version(check_name(name, what))
    if version != 1 or kind != name:
        raise InvalidOption(
            f"{what}={name!r} ends as a version does; name the kind, and say version={version} where it is defined"
        )


def _check_aliases(aliases: object) -> None:
    if isinstance(aliases, str):
        raise InvalidOption(
            f"aliases={aliases!r} is one kind, and aliases are a list of them; write aliases=[{aliases!r}]"
        )
    if not isinstance(aliases, Sequence):
        raise InvalidOption(f"aliases={aliases!r:.160} is not a list of the kinds it was before")
    for alias in aliases:
        _check_plain(alias, "alias")
    if len(set(aliases)) < len(aliases):
        raise InvalidOption(f"aliases={aliases!r:.160} says one name twice")


def _check_renamed(renamed: object) -> None:
    if not isinstance(renamed, Mapping) or not all(
        isinstance(former, str) and isinstance(today, str) for former, today in renamed.items()
    ):
        raise InvalidOption(
            f"renamed={renamed!r:.160} is not a dictionary of former names of methods and today's, as in "
            "renamed={'charge': 'call'}"
        )


def _check_versions(version: object, upcasters: object, where: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= MOST_VERSIONS:
        raise InvalidOption(f"version={version!r} is not a whole number from 1 to {MOST_VERSIONS}")
    if not isinstance(upcasters, Mapping):
        raise InvalidOption(
            f"upcasters={upcasters!r:.160} is not a dictionary of versions and functions, as in upcasters={{1: to_cents}}"
        )
    for number, step in upcasters.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InvalidOption(
                f"upcasters= has {number!r:.80} for a version; a version is a whole number from 1 on"
            )
        if not callable(step) or is_async(step):
            raise InvalidOption(
                f"upcasters[{number}] of {where} is {shorten(step)}; make it a plain function that takes the stored inputs of "
                f"version {number} as a dictionary, and returns those of version {number + 1}"
            )
    # The oldest may be left out, once no job is stored in them any more; never one in between.
    wanted = set(range(min(upcasters, default=version - 1), version)) if version > 1 else set()
    if set(upcasters) != wanted:
        missing = sorted(wanted - set(upcasters))
        if missing:
            raise InvalidOption(
                f"version={version} of {where} needs upcasters={{{missing[0]}: …}}: what makes inputs of version "
                f"{missing[0] + 1} of those stored at version {missing[0]}"
            )
        beyond = sorted(set(upcasters) - wanted)
        raise InvalidOption(
            f"{where} has upcasters from version {', '.join(map(str, beyond))}, which is not before version={version}; say "
            f"version={max(beyond) + 1}, or take them out"
        )
