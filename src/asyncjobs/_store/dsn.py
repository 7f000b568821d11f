"""The address of a database, as people write it: read, checked, and shown without its secrets."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from asyncjobs.errors import InvalidOption


def plain_dsn(dsn: str) -> str:
    """*dsn* as asyncpg takes it: SQLAlchemy's name of a driver, and what only that driver knows, is taken off."""
    if not isinstance(dsn, str):
        raise InvalidOption(
            f"the DSN is {type(dsn).__qualname__}, not text; pass engine= for an engine, pool= for a pool"
        )
    scheme, separator, rest = dsn.partition("://")
    name, _, driver = scheme.partition("+")
    if not separator or name not in ("postgres", "postgresql"):
        raise InvalidOption(
            f"{shown(dsn)} is not the address of a Postgres database; write postgresql://user:password@host:5432/database"
        )
    _check_readable(rest)
    if driver:
        rest, mark, query = rest.partition("?")
        kept = [
            ("sslmode" if word == "ssl" else word, value)
            for word, value in parse_qsl(query)
            if word not in _SQLALCHEMYS
        ]
        rest += mark + urlencode(kept)
    return f"{name}://{rest}"


_SQLALCHEMYS = ("async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func")


def _check_readable(rest: str) -> None:
    """Refuse what cannot be read, without a word of it: where a password is cut in two, half of it stands in the rest."""
    try:
        parts = urlsplit(f"postgresql://{rest}")
        readable = not parts.fragment and all(map(_is_port, _ports(parts.netloc)))
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        readable = False
    if not readable:
        raise InvalidOption(
            "the DSN cannot be read; a user or password with one of / ? # @ : [ ] % in it, and the value of a parameter, are "
            "written percent-encoded, as by urllib.parse.quote(…, safe='')"
        )


def _ports(netloc: str) -> list[str]:
    """The ports of the hosts, where they are given; a colon within brackets is the host's own."""
    hosts = [host.rpartition("]")[2] for host in netloc.rpartition("@")[2].split(",")]
    return [host.rpartition(":")[2] for host in hosts if ":" in host]


def _is_port(word: str) -> bool:
    return not word or (word.isdecimal() and int(word) < 65536)


def has_password(dsn: str) -> bool:
    """Whether a password stands in *dsn*."""
    try:
        parts = urlsplit(dsn)
    except ValueError:  # it cannot be read; who opens it says so
        return False
    return ":" in parts.netloc.rpartition("@")[0] or "password" in dict(parse_qsl(parts.query))


def place(dsn: str) -> str:
    """The database that *dsn* names, in words, without anything that may be secret."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    name = unquote(parts.path.removeprefix("/")) or query.get("dbname") or query.get("database")
    host = parts.netloc.rpartition("@")[2] or query.get("host")
    return named(name, unquote(host) if host else None)


def named(database: str | None, host: str | None) -> str:
    """A database in words."""
    name = f"database {database!r}" if database else "the user's own database"
    return f"{name} on {host}" if host else name


def shown(dsn: str) -> str:
    """A DSN without anything that may be secret: its user, password and parameters."""
    scheme, separator, rest = dsn.partition("://")
    if not separator:
        return "the DSN"  # it may be a password, or libpq's `password=…`
    where = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}://…@{where}" if "@" in rest else f"{scheme}://{where}"
