"""Events, subscriptions, and which of them match: the rule, pure. `match_event` in the database says the same.

A name is matched by itself, by a glob or by a regular expression; attributes by what each must be, and all must be it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar

import attrs

from asyncjobs._model.options import check_name
from asyncjobs._model.patterns import as_read_here, glob_to_like, glob_to_regex, is_glob, to_postgres
from asyncjobs.errors import InvalidOption

BLANKS = " \t\n\r\f\v"


class Is(Enum):
    """What an attribute may be said to be, whatever it is: `where={"email": Is.PRESENT}`."""

    KEY = "key"  #: it is there, with whatever value
    VALUE = "value"  #: it is there and not null
    NIL = "nil"  #: it is null, or not there
    EMPTY = "empty"  #: it is there, and an empty text, list or object
    BLANK = "blank"  #: it is null, empty, of blanks only, or not there
    PRESENT = "present"  #: it is not blank


Wanted = Any
"""What an attribute must be: a word of `Is`, a compiled regular expression for its text, or a literal."""


@attrs.frozen
class Event:
    """Something that happened: what a subscriber gets. Its attributes are also to be had as `event["user_id"]`.

    A parameter (or a field of a `Later` class) annotated with it is supplied where the job runs.
    """

    name: str
    attributes: Mapping[str, Any]
    id: str  #: the same for every job of the event
    published_at: datetime  #: by the database's clock
    host: str  #: where it was published
    application: str | None = None  #: which published it
    context: str | None = None  #: what `in_context` said around it

    __asyncjobs_supplied__: ClassVar[bool] = True

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]


@attrs.frozen(kw_only=True)
class Subscription:
    """A row of `subscriptions`: which events become which job."""

    name: str
    event: str | None = None  #: the one name it is for …
    glob: str | None = None
    regex: re.Pattern[str] | None = None  #: … or the pattern of its names
    where: Mapping[str, Wanted] | None = None  #: None: whatever the attributes are
    kind: str
    method: str | None = None
    queue: str
    priority: int | None  #: None: what the registry of queues says
    max_attempts: int
    tags: Sequence[str] | None = None
    meta: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """As `declare_subscriptions.sql` takes it."""
        return {
            "name": self.name,
            "event": self.event,
            "pattern": None if self.glob is None else glob_to_like(self.glob),
            "regex": None if self.regex is None else to_postgres(self.regex, "the event's name"),
            "matchers": None if self.where is None else matchers_json(self.where),
            "kind": self.kind,
            "method": self.method,
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "tags": None if self.tags is None else list(self.tags),
            "meta": self.meta,
            "options": self.options,
        }

    @property
    def listens_to(self) -> str:
        """The name or pattern, as it was written."""
        return self.event or self.glob or (self.regex.pattern if self.regex else "")


def names_of(event: object) -> dict[str, Any]:
    """What a subscription is for, checked: a name, a glob or a compiled regular expression."""
    if isinstance(event, re.Pattern):
        to_postgres(event, "the event's name")
        return {"regex": event}
    name = check_name(event, "event")
    return {"glob": name} if is_glob(name) else {"event": name}


def check_event_name(name: object) -> str:
    """The name of an event that is published. Raises InvalidOption."""
    checked = check_name(name, "event")
    if is_glob(checked):
        raise InvalidOption(
            f"event={checked!r} is a pattern, for those who subscribe; what happened has a name without '*' and '?'"
        )
    return checked


def check_where(where: object) -> Mapping[str, Wanted] | None:
    """What the attributes must be, checked where it is written."""
    if where is None:
        return None
    if not isinstance(where, Mapping):
        raise InvalidOption(f"where={where!r:.160} is no dictionary of attributes and what they must be")
    for attribute, wanted in where.items():
        if not isinstance(attribute, str):
            raise InvalidOption(f"where= has the key {attribute!r:.80}; attributes are named by text")
        if isinstance(wanted, re.Pattern):
            to_postgres(wanted, f"where[{attribute!r}]")
        elif not isinstance(wanted, Is) and not _is_literal(wanted):
            raise InvalidOption(
                f"where[{attribute!r}]={wanted!r:.160} is nothing an attribute can be; give a literal (text, a number, a bool, None, "
                f"or a list or dict of them), a compiled regular expression, or one of {', '.join(f'Is.{word.name}' for word in Is)}"
            )
    return dict(where)


def matchers_json(where: Mapping[str, Wanted]) -> dict[str, Any]:
    """What attributes must be, as it is stored."""
    return {
        attribute: {"be": wanted.value}
        if isinstance(wanted, Is)
        else {"match": to_postgres(wanted, f"where[{attribute!r}]")}
        if isinstance(wanted, re.Pattern)
        else {"equal": wanted}
        for attribute, wanted in where.items()
    }


def matches(subscription: Subscription, name: str, attributes: Mapping[str, Any]) -> bool:
    """Whether an event is for *subscription*; *attributes* are plain JSON data."""
    if not _name_matches(subscription, name):
        return False
    where = subscription.where
    return where is None or (
        bool(where) and all(_is(wanted, attributes, key) for key, wanted in where.items())
    )


def _name_matches(subscription: Subscription, name: str) -> bool:
    if subscription.event is not None:
        return name == subscription.event
    if subscription.glob is not None:
        return glob_to_regex(subscription.glob).search(name) is not None
    assert subscription.regex is not None
    return as_read_here(subscription.regex).search(name) is not None


def _is(wanted: Wanted, attributes: Mapping[str, Any], key: str) -> bool:
    value = attributes.get(key)
    match wanted:
        case Is.KEY:
            return key in attributes
        case Is.VALUE:
            return value is not None
        case Is.NIL:
            return value is None
        case Is.EMPTY:
            return key in attributes and value in ("", [], {})
        case Is.BLANK:
            return _is_blank(value)
        case Is.PRESENT:
            return not _is_blank(value)
        case re.Pattern():
            return isinstance(value, str) and as_read_here(wanted).search(value) is not None
    return key in attributes and same_json(wanted, value)


def _is_blank(value: Any) -> bool:
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip(BLANKS))


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are equal as JSON: 1 is 1.0, and is not true."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return Decimal(repr(one)) == Decimal(repr(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same_json(*pair) for pair in zip(one, other, strict=True))
    return isinstance(one, str) and isinstance(other, str) and one == other


def _is_literal(value: Any) -> bool:
    return all(
        each is None
        or type(each) in (str, int, bool, list, dict)
        or (type(each) is float and each - each == 0)  # neither infinite nor no number
        for each in _inside(value)
    )


def _inside(value: Any) -> Iterator[Any]:
    yield value
    if type(value) is list:
        for each in value:
            yield from _inside(each)
    elif type(value) is dict:
        for key, each in value.items():
            yield key if isinstance(key, str) else object()
            yield from _inside(each)
