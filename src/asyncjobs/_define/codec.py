"""Turn the inputs and results of jobs into JSON that jsonb keeps faithfully, and back.

Whatever is written is read back and compared before it is stored: the caller of `later` learns at once that
an input would be lost or changed, not the runner an hour later. The way is optimistic: write, read, compare,
and only when something is wrong look for what it is, to say it in words.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

import attrs
import orjson
from cattrs import StructureHandlerNotFoundError, transform_error

from asyncjobs._define.faithful import (
    WHAT_TO_DO,
    Trouble,
    culprit,
    difference,
    inside,
    never_storable,
    not_json,
    shorten,
)
from asyncjobs._define.storable import STRICT, storable
from asyncjobs.errors import InvalidInput, UndecodableInput

_NUL = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u0000"
)  # the escape, and not a backslash followed by the letters u0000
_EXPONENT = re.compile(rb"e\+?\d+(?:[],}]|$)")  # orjson wrote 1e16 and now writes 1e+16
_STRING_OR_EXPONENT = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?e\+?\d+')


@attrs.frozen
class Codec:
    """Inputs and results as JSON text, and JSON text as inputs and results."""

    limit: int = 1_000_000
    """The most bytes of JSON one job's inputs, its result or its meta may be."""

    def encode(self, values: Mapping[str, Any], types: Mapping[str, Any], *, what: str) -> str:
        """Write the inputs of one job, or raise InvalidInput: what is stored is what will come back."""
        try:
            fields = [(name, value, storable(types.get(name, Any))) for name, value in values.items()]
            text = _dump({name: field.write(value) for name, value, field in fields})
            self.check_size(text, what=what)
            back = orjson.loads(text)
            for name, value, field in fields:
                _compare(value, field.read(back[name], field.declared))
        except InvalidInput:
            raise
        except Exception as error:
            inputs = {f"input {name}": (value, types.get(name, Any)) for name, value in values.items()}
            raise _refusal(inputs, what, error) from error
        return text.decode()

    def decode(self, text: str, types: Mapping[str, Any], *, what: str) -> dict[str, Any]:
        """Read the inputs of one job: those that are both stored and declared."""
        return self.read(self.load(text, what=what), types, what=what)

    def load(self, text: str, *, what: str) -> dict[str, Any]:
        """Parse the inputs of one job."""
        stored = _load(text, what)
        if type(stored) is not dict:
            raise UndecodableInput(
                f"{what}: the stored inputs are {shorten(stored)}, not an object of names and values"
            )
        return stored

    def read(self, stored: Mapping[str, Any], types: Mapping[str, Any], *, what: str) -> dict[str, Any]:
        """Read what was parsed: what is both stored and declared."""
        read = {}
        for name, declared in types.items():
            if name in stored:
                try:
                    read[name] = storable(declared).read(stored[name], declared)
                except Exception as error:
                    raise _undecodable(f"input {name}", declared, stored[name], error, what) from error
        return read

    def encode_value(self, value: Any, declared: Any, *, what: str) -> str:
        """Write one value, a result, or raise InvalidInput."""
        try:
            field = storable(declared)
            text = _dump(field.write(value))
            self.check_size(text, what=what)
            _compare(value, field.read(orjson.loads(text), declared))
        except InvalidInput:
            raise
        except Exception as error:
            raise _refusal({"value": (value, declared)}, what, error) from error
        return text.decode()

    def decode_value(self, text: str, declared: Any, *, what: str) -> Any:
        """Read one value, a result."""
        stored = _load(text, what)
        try:
            return storable(declared).read(stored, declared)
        except Exception as error:
            raise _undecodable("value", declared, stored, error, what) from error

    def encode_plain(self, value: Any, *, what: str) -> str:
        """Write data that is JSON's own: no type is declared to bring anything else back."""
        return self.encode_value(value, Any, what=what)

    def check_size(self, text: bytes | str, *, what: str) -> None:
        """Refuse more JSON than one job may bring along."""
        if len(text) > self.limit:
            raise InvalidInput(
                f"{what} cannot be stored: it is {len(text):,} bytes of JSON, more than the limit of {self.limit:,}; "
                "keep the data where it belongs and pass its id or path"
            )


def _compare(kept: Any, back: Any) -> None:
    if difference(kept, back) is not None:
        raise ValueError("it does not come back equal")


def _dump(written: Any) -> bytes:
    text = orjson.dumps(written, option=STRICT)
    if b"\\u0000" in text and _NUL.search(text):
        raise ValueError("a NUL character")
    if _EXPONENT.search(text):
        # jsonb prints 1e16 as 10000000000000000, an int; with a fraction it stays what it is: a float.
        text = _STRING_OR_EXPONENT.sub(_without_exponent, text)
    return text


def _without_exponent(match: re.Match[bytes]) -> bytes:
    token = match[0]
    return token if token.startswith(b'"') else format(Decimal(token.decode()), "f").encode() + b".0"


def _load(text: str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except Exception as error:
        try:
            # A number beyond a float's range: jsonb keeps it, orjson will not read it, Python's own json does.
            return json.loads(text, parse_constant=_no_constant)
        except Exception:
            raise UndecodableInput(f"{what}: {shorten(text)} cannot be read as JSON: {error}") from error


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _refusal(values: Mapping[str, tuple[Any, Any]], what: str, error: Exception) -> InvalidInput:
    """Find what is wrong with one of *values*, each with its declared type, and say it."""
    for name, (value, declared) in values.items():
        trouble = _trouble(value, declared)
        if trouble is not None:
            inner = f"{name} is " if trouble.path else ""
            if trouble.value is None and (name + trouble.path).endswith((" id", "_id", ".id")):
                trouble = attrs.evolve(
                    trouble, why=f"{trouble.why} (the id of a new row is None until it is flushed)"
                )
            path = trouble.path if len(trouble.path) <= 100 else trouble.path[:100] + "…"
            place = f"{name}{path} ({inner}declared {_name(declared)})"
            return InvalidInput(
                f"{what} cannot be stored: {place} is {shorten(trouble.value)}, {trouble.why}"
            )
    return InvalidInput(f"{what} cannot be stored: {_words(error)}")


def _trouble(value: Any, declared: Any) -> Trouble | None:
    """Go the way of *value* step by step; the first step that fails knows best what is wrong."""
    try:
        found = culprit(value, never_storable)
        if found is not None:
            return found
        field = storable(declared)
        written = field.write(value)
        found = culprit(written, not_json) or culprit(written, never_storable)
        if found is not None:
            return found
        return difference(value, field.read(orjson.loads(_dump(written)), declared))
    except RecursionError:
        return Trouble("", value, "nested too deeply; pass an id and load the data in the job")
    except Exception as error:
        path, words = _where(error)
        return Trouble(
            path,
            inside(value, path),
            f"which does not fit: {words}" + ("" if ";" in words else f"; {WHAT_TO_DO}"),
        )


def _undecodable(name: str, declared: Any, stored: Any, error: Exception, what: str) -> UndecodableInput:
    path, words = _where(error)
    misfit = f"does not fit its declaration {_name(declared)}"
    return UndecodableInput(
        f"{what}: stored {name}{path} {misfit}: {words}. "
        f"Stored is {shorten(stored)}; has the definition changed since? Accept both shapes, or cancel the job",
        input_name=name.removeprefix("input "),
        discreet=f"{what}: stored {name} {misfit}",
    )


def _where(error: Exception) -> tuple[str, str]:
    """Find the path inside the value at which cattrs failed, and the words for it."""
    try:
        words, _, path = transform_error(error, "", lambda inner, _: _words(inner))[0].rpartition(" @ ")
    except Exception:  # an error as deep as the data was
        return "", _words(error)
    return path, words


def _words(error: BaseException) -> str:
    match error:
        case RecursionError():
            return "nested too deeply"
        case KeyError():
            return f"{error} is missing or unknown"
        case StructureHandlerNotFoundError():
            return f"{_name(error.type_)} is not a type that can be stored; plain data, attrs classes and dataclasses are"
        case TypeError() if "Dict key" in str(error):
            return "keys are text unless the annotation says otherwise, as in dict[int, str]"
        case NameError():
            return f"an annotation cannot be resolved ({error}); define or import that name at the top of its module"
    return shorten(error) if not str(error) else str(error).splitlines()[0][:300]


def _name(declared: Any) -> str:
    return (
        declared.__name__
        if isinstance(declared, type) and not hasattr(declared, "__args__")
        else str(declared)
    )
