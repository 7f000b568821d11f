"""A kind as older code stored it: its inputs are brought up to today's before anything reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncjobs._define.call import Call
from asyncjobs._define.codec import Codec
from asyncjobs._define.history import History
from asyncjobs._define.kind import Kind
from asyncjobs.errors import UndecodableInput


class Former:
    """A definition, for jobs that were stored at an earlier version. The engine sees any other kind."""

    def __init__(self, definition: Kind, version: int) -> None:
        self.definition = definition
        self.version = version
        self.kind: str = definition.kind
        self.home: str = definition.home
        self.history: History = definition.history

    def __repr__(self) -> str:
        return f"<version {self.version} of {self.kind}>"

    def options_of(self, method: str | None) -> Mapping[str, Any]:
        return self.definition.options_of(method)

    def bind(self, method: str | None, args: str, codec: Codec, supply: Mapping[Any, Any]) -> Call:
        return self.definition.bind(method, self.todays(args, codec), codec, supply)

    def try_out(self, method: str | None, args: str, codec: Codec) -> None:
        self.definition.try_out(method, self.todays(args, codec), codec)

    def undeclared(self, method: str | None, args: str, codec: Codec, *, beside: str) -> list[str]:
        return self.definition.undeclared(method, self.todays(args, codec), codec, beside=beside)

    def dependencies(self, method: str | None = None) -> frozenset[Any]:
        return self.definition.dependencies(method)

    def result_type(self, method: str | None) -> Any:
        return self.definition.result_type(method)

    def todays(self, args: str, codec: Codec) -> str:
        """Stored inputs, brought up to today's version. Raises UndecodableInput."""
        inputs = self.history.upcast(codec.load(args, what=self.kind), self.version, self.kind)
        try:
            return json.dumps(inputs, allow_nan=False)  # not orjson: a stored number may be beyond 64 bits
        except (TypeError, ValueError, RecursionError) as error:
            raise UndecodableInput(
                f"{self.kind}: the upcasters from version {self.version} made what is not plain JSON data: {error}",
                reason="upcaster fails",
            ) from error
