"""Slots classes are created twice, and nobody notices."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from asyncjobs import Jobs, Later, job
from asyncjobs._define import registry


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Base(Later):
    __slots__ = ()

    async def call(self) -> str:
        return "base"

    def sync(self) -> str:
        return "base"

    @job
    async def greet(self, name: str) -> str:
        return f"base {name}"

    @classmethod
    def of_class(cls) -> str:
        return "base"

    @property
    def read(self) -> str:
        return "base"

    def wrapped(self) -> str:
        return "base"


@attrs.frozen
class Attrs(Base, queue="slots", kind="test_slots:Attrs"):
    tenant: str

    async def call(self) -> str:
        return f"{self.tenant} {await super().call()}"

    def sync(self) -> str:
        return f"{self.tenant} {super().sync()}"

    @job
    async def greet(self, name: str) -> str:
        return f"{self.tenant} {await super().greet(name)}"

    @classmethod
    def of_class(cls) -> str:
        return f"{cls.__name__} {super().of_class()}"

    @property
    def read(self) -> str:
        return f"{self.tenant} {super().read}"

    @kept
    def wrapped(self) -> str:
        return f"{self.tenant} {super().wrapped()}"


@dataclasses.dataclass(slots=True)
class Data(Base, queue="slots", kind="test_slots:Data"):
    tenant: str

    async def call(self) -> str:
        return f"{self.tenant} {await super().call()}"

    def sync(self) -> str:
        return f"{self.tenant} {super().sync()}"

    @job
    async def greet(self, name: str) -> str:
        return f"{self.tenant} {await super().greet(name)}"

    @classmethod
    def of_class(cls) -> str:
        return f"{cls.__name__} {super().of_class()}"

    @property
    def read(self) -> str:
        return f"{self.tenant} {super().read}"

    @kept
    def wrapped(self) -> str:
        return f"{self.tenant} {super().wrapped()}"


@attrs.frozen
class OfAttrs(Attrs, max_attempts=3):
    async def call(self) -> str:
        return f"again {await super().call()}"


@attrs.frozen(slots=False)
class WithDict(Base):
    tenant: str

    async def call(self) -> str:
        return f"{self.tenant} {await super().call()}"


BOTH = pytest.mark.parametrize("cls", [Attrs, Data])


def test_later_has_empty_slots() -> None:
    """So that a slots class derived from it has no dictionary."""
    assert Later.__slots__ == ()
    for cls in (Attrs, Data):
        assert not hasattr(cls("a"), "__dict__")
        with pytest.raises((AttributeError, TypeError)):
            cls("a").nonsense = 1  # type: ignore[union-attr]


@BOTH
def test_super_works_in_every_method(cls: type[Attrs | Data]) -> None:
    """In plain, `@job`, class and decorated methods and in properties."""
    thing = cls("acme")
    assert thing.sync() == "acme base"
    assert thing.read == "acme base"
    assert thing.wrapped() == "acme base"
    assert cls.of_class() == f"{cls.__name__} base"


@pytest.mark.parametrize("thing", [Attrs("acme"), Data("acme"), OfAttrs("acme"), WithDict("acme")])
async def test_super_works_in_jobs(running: Jobs, thing: Attrs | Data | WithDict) -> None:
    """Now and later."""
    for name in ("call", "sync", "wrapped"):
        now = getattr(thing, name)()
        assert await (await thing.later(name)).result(timeout=10) == (
            await now if inspect.isawaitable(now) else now
        )
    assert await (await thing.greet.later("you")).result(timeout=10) == await thing.greet("you")


@BOTH
def test_one_class_is_registered(cls: type[Attrs | Data]) -> None:
    """The second, which is the one that has the name."""
    service: Any = registry.find(f"test_slots:{cls.__name__}")
    assert service.cls is cls


async def test_the_class_options_are_kept(running: Jobs) -> None:
    """The second class is made without the keywords of the first."""
    for thing in (Attrs("a"), Data("a")):
        assert (await (await thing.later("call")).job()).queue == "slots"
    stored = await (await OfAttrs("a").later("call")).job()
    assert (stored.queue, stored.max_attempts) == ("slots", 3)
    assert stored.kind.endswith("test_slots:OfAttrs")


def test_only_a_twin_is_taken_for_the_class() -> None:
    """A function of another class keeps its `super()`, though that class had the same name."""

    @attrs.frozen
    class Same(Base, kind="test_slots:Same"):
        def sync(self) -> str:
            return f"first {super().sync()}"

    first = Same

    @attrs.frozen
    class Same(first, kind="test_slots:Same2"):  # type: ignore[no-redef, valid-type, misc, call-arg]
        sync = first.sync
        other = first.sync

    assert Same().sync() == "first base"
    assert first().sync() == "first base"


class Anything:
    """Answers to every name."""

    def __getattr__(self, name: str) -> Any:
        return Anything()


def test_whatever_stands_in_a_class_is_left_alone() -> None:
    """An attribute that answers to any name is not asked for cells for ever."""

    class Holds(Later, kind="test_slots:Holds"):
        anything = Anything()

    assert isinstance(Holds.anything, Anything)
