"""What the engine asks of a definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from asyncjobs._define.call import Call
from asyncjobs._define.codec import Codec
from asyncjobs._define.history import History


class Kind(Protocol):
    """A definition, as the engine sees it."""

    kind: str
    home: str  #: module and qualified name, to tell a definition made twice from two of one name
    history: History  #: what it was before

    def options_of(self, method: str | None) -> Mapping[str, Any]:
        """The options of a job of this kind, merged."""

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:
        """Stored inputs made into a call. Raises UndecodableInput."""

    def try_out(self, method: str | None, args: str, codec: Codec) -> None:
        """Read stored inputs, and call nothing. Raises what `bind` would: UndecodableInput, InvalidDefinition."""

    def undeclared(self, method: str | None, args: str, codec: Codec, *, beside: str) -> list[str]:
        """The stored inputs that nothing takes, of those among which *beside* is: fields, or arguments."""

    def dependencies(self, method: str | None = None) -> frozenset[Any]:
        """The types `supply` must hold for `bind`: of one method, or of all that may be jobs."""

    def result_type(self, method: str | None) -> Any:
        """What the call is declared to return."""
