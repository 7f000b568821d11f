"""The statements of asyncjobs: read from `sql/`, with the name of the schema put in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from asyncjobs.errors import InvalidOption

DEFAULT_SCHEMA = "asyncjobs"

_SCHEMA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]{0,39}")
_TOKEN = re.compile(r"\basyncjobs(?=[.:;])")


def check_schema(name: str) -> str:
    """A schema's name: 1 to 40 letters, digits, '_', '-' and blanks, starting with a letter or '_'."""
    if not _SCHEMA_NAME.fullmatch(name):
        raise InvalidOption(
            f"schema={name!r} is not a name asyncjobs takes; use 1 to 40 letters, digits, '_', '-' and blanks, "
            "starting with a letter"
        )
    return name


# What Postgres brings for arguments of any type loses against a function made for exactly those types, wherever one is
# found: whoever may create functions in `public` would run code as whoever enqueues. So these are said to be Postgres' own.
# Several arrays at once are Postgres' already, and `unnest` with a schema would not take them.
_OF_ANY_TYPE = re.compile(
    r"(?<![.\w])(?:(?:array_agg|array_length|cardinality|count|format|jsonb_agg|jsonb_build_array|jsonb_build_object"
    r"|max|min|to_jsonb|width_bucket)(?=\()|unnest(?=\([^(),]*\)))"
)


def in_schema(text: str, schema: str) -> str:
    """*text*, written for the schema `asyncjobs`, for another one: `asyncjobs.` as identifier, `asyncjobs:` in channels.

    Functions an attacker could outdo are named with their schema, too.
    """
    text = _OF_ANY_TYPE.sub(r"pg_catalog.\g<0>", text)
    return _TOKEN.sub(lambda found: schema if text[found.end()] == ":" else f'"{schema}"', text)


@cache
def statements(schema: str = DEFAULT_SCHEMA) -> Mapping[str, str]:
    """Every statement below `sql/` by the name of its file."""
    check_schema(schema)
    texts = {
        file.name.removesuffix(".sql"): in_schema(file.read_text("utf-8"), schema)
        for room in (files("asyncjobs") / "_store" / "sql").iterdir()
        if room.is_dir()
        for file in room.iterdir()
        if file.name.endswith(".sql")
    }
    return MappingProxyType(texts)
