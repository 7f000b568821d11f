"""`Dependency[Mailer]`: never stored, and supplied where the job runs."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import attrs
import pytest

from asyncjobs import SUPPLIED, Dependency, InvalidOption, Jobs, Later, job
from asyncjobs._define.dependency import dependency

pytestmark = pytest.mark.usefixtures("forgetting")


class Mailer:
    def __init__(self, name: str = "supplied") -> None:
        self.name = name
        self.open = True


class Clock:
    now = 12


def define() -> Any:
    """Definitions that ask for things, known for one test only."""

    @attrs.frozen
    class OfAttrs(Later, kind="test_dependency:OfAttrs"):
        tenant: str
        mailer: Dependency[Mailer]

        async def call(self) -> str:
            return f"{self.tenant} {self.mailer.name}"

    @dataclasses.dataclass
    class OfData(Later, kind="test_dependency:OfData"):
        tenant: str
        mailer: Dependency[Mailer | None] = None

        async def call(self) -> str:
            return f"{self.tenant} {self.mailer.name if self.mailer else None}"

    class Plain(Later, kind="test_dependency:Plain"):
        def __init__(self, mailer: Dependency[Mailer], tenant: str) -> None:
            self._mailer = mailer
            self.tenant = tenant

        async def call(self) -> str:
            return f"{self.tenant} {self._mailer.name}"

    @attrs.frozen
    class OfMethods(Later, kind="test_dependency:OfMethods"):
        tenant: str

        @job
        async def decorated(self, size: int, mailer: Dependency[Mailer] | None = None) -> str:
            return f"{self.tenant} {size} {mailer.name if mailer else None}"

        async def plain(self, mailer: Dependency[Mailer], clock: Dependency[Clock]) -> str:
            return f"{self.tenant} {mailer.name} {clock.now}"

    @attrs.frozen
    class Inherits(OfMethods, kind="test_dependency:Inherits"):
        pass

    @job(kind="test_dependency:function")
    async def function(
        mailer: Dependency[Mailer],
        size: int,
        *,
        clock: Annotated[Dependency[Clock], "doc"] = Clock(),  # noqa: B008
    ) -> str:
        return f"{size} {mailer.name} {clock.now}"

    @job(kind="test_dependency:thread")
    def thread(size: int, mailer: Dependency[Mailer], /) -> str:
        return f"{size} {mailer.name}"

    class Defined:
        pass

    for each in (OfAttrs, OfData, Plain, OfMethods, Inherits):
        setattr(Defined, each.__name__, each)
    Defined.function, Defined.thread = function, thread  # type: ignore[attr-defined]
    return Defined


MINE = Mailer("mine")
CALLS: list[tuple[Callable[[Any], Any], dict[str, Any], str]] = [
    (lambda d: d.OfAttrs("acme", MINE).later("call"), {"tenant": "acme"}, "acme supplied"),
    (lambda d: d.OfData("acme").later("call"), {"tenant": "acme"}, "acme supplied"),
    (lambda d: d.Plain(MINE, "acme").later("call"), {"tenant": "acme"}, "acme supplied"),
    (
        lambda d: d.OfMethods("acme").decorated.later(3),
        {"tenant": "acme", "()": {"size": 3}},
        "acme 3 supplied",
    ),
    (
        lambda d: d.OfMethods("acme").decorated.later(3, MINE),
        {"tenant": "acme", "()": {"size": 3}},
        "acme 3 supplied",
    ),
    (lambda d: d.OfMethods("acme").later("plain"), {"tenant": "acme"}, "acme supplied 12"),
    (
        lambda d: d.Inherits("acme").decorated.later(size=3),
        {"tenant": "acme", "()": {"size": 3}},
        "acme 3 supplied",
    ),
    (lambda d: d.function.later(MINE, 3), {"size": 3}, "3 supplied 12"),
    (lambda d: d.function.later(size=3), {"size": 3}, "3 supplied 12"),
    (lambda d: d.thread.later(3, MINE), {"size": 3}, "3 supplied"),
]


async def test_a_dependency_is_supplied_and_never_stored(dsn: str) -> None:
    """In fields and parameters of every kind; the one that was there when the job was enqueued stays there."""
    defined = define()
    async with Jobs(dsn, provide={Mailer: Mailer, Clock: Clock}).running():
        for call, stored, result in CALLS:
            handle = await call(defined)
            assert await handle.result(timeout=10) == result
            assert (await handle.job()).args == stored


async def test_a_default_of_any_type(dsn: str) -> None:
    """`SUPPLIED` needs no `None`: there is a Mailer when the job runs, and whoever uses it sooner is told that there is none yet."""

    @attrs.frozen
    class Supplied(Later, kind="test_dependency:Supplied"):
        tenant: str
        mailer: Dependency[Mailer] = SUPPLIED

        async def call(self) -> str:
            return f"{self.tenant} {self.mailer.name}"

    @dataclasses.dataclass
    class SuppliedData(Later, kind="test_dependency:SuppliedData"):
        tenant: str
        mailer: Dependency[Mailer] = SUPPLIED

        async def call(self) -> str:
            return f"{self.tenant} {self.mailer.name}"

    with pytest.raises(AttributeError, match="no 'name' yet: this dependency is supplied where the job runs"):
        await Supplied("acme").call()
    assert await Supplied("acme", MINE).call() == "acme mine"
    assert Supplied("acme") == Supplied("acme")
    async with Jobs(dsn, provide={Mailer: Mailer}).running():
        for each in (Supplied("acme"), SuppliedData("acme")):
            handle = await each.later("call")
            assert await handle.result(timeout=10) == "acme supplied"
            assert (await handle.job()).args == {"tenant": "acme"}


async def test_now_it_is_passed_as_any_other() -> None:
    """Constructing the object now, one passes it or relies on its default."""
    defined = define()
    assert await defined.OfAttrs("acme", MINE).call() == "acme mine"
    assert await defined.OfData("acme").call() == "acme None"
    assert await defined.OfMethods("acme").plain(MINE, Clock()) == "acme mine 12"
    assert await defined.function(MINE, 3) == "3 mine 12"


async def test_what_is_supplied_may_be_made_in_any_way(dsn: str) -> None:
    """By a function, an async one, or one that gives a context manager, which is left when the job ends."""
    defined = define()
    mailers: list[Mailer] = []

    def made(name: str) -> Mailer:
        mailers.append(Mailer(name))
        return mailers[-1]

    async def awaited() -> Mailer:
        return made("awaited")

    @contextmanager
    def within() -> Iterator[Mailer]:
        mailer = made("within")
        yield mailer
        mailer.open = False

    @asynccontextmanager
    async def within_async() -> AsyncIterator[Mailer]:
        mailer = made("async within")
        yield mailer
        mailer.open = False

    for make, name in (
        (lambda: made("plain"), "plain"),
        (awaited, "awaited"),
        (within, "within"),
        (within_async, "async within"),
    ):
        async with Jobs(dsn, provide={Mailer: make, Clock: Clock}).running():
            handles = [await defined.thread.later(n, MINE) for n in range(2)]
            assert [await handle.result(timeout=10) for handle in handles] == [f"0 {name}", f"1 {name}"]
    assert len(mailers) == 8  # made anew for each job
    assert [mailer.open for mailer in mailers] == [True] * 4 + [False] * 4


async def test_only_what_a_method_asks_for_is_made(dsn: str) -> None:
    """A job of one method does not wait for what another would need."""
    defined = define()

    def refuse() -> Clock:
        raise AssertionError("nobody asked for a clock")

    async with Jobs(dsn, provide={Mailer: Mailer, Clock: refuse}).running():
        assert (
            await (await defined.OfMethods("acme").decorated.later(3)).result(timeout=10) == "acme 3 supplied"
        )


@pytest.mark.parametrize(
    "name", ["OfAttrs", "OfData", "Plain", "OfMethods", "Inherits", "function", "thread"]
)
async def test_what_nobody_provides_is_said_before_anything_runs(dsn: str, name: str) -> None:
    """`running` refuses, naming what asks for it and what to write."""
    from asyncjobs._define import registry

    define()
    for kind in registry.known_kinds() - {f"test_dependency:{name}"}:
        if kind.startswith("test_dependency:"):
            del registry._kinds[kind]
    expected = rf"test_dependency:{name} cannot run here: nothing provides Mailer; give Jobs\(…, provide={{Mailer: make_it}}\)"
    with pytest.raises(InvalidOption, match=expected):
        async with Jobs(dsn, provide={Clock: Clock}).running():
            raise AssertionError("it runs")
    async with Jobs(dsn):  # who only enqueues need provide nothing
        pass


async def test_a_plain_method_with_a_dependency_is_known_to_ask(dsn: str) -> None:
    """Though it is not decorated: it may be a job."""
    define()
    with pytest.raises(
        InvalidOption, match="OfMethods cannot run here: nothing provides Clock|Inherits cannot run here"
    ):
        async with Jobs(dsn, provide={Mailer: Mailer}).running():
            raise AssertionError("it runs")


async def test_a_provider_that_fails_fails_the_attempt(dsn: str) -> None:
    """With its own error, and the job is tried again as after any."""
    defined = define()

    def broken() -> Mailer:
        raise OSError("no route to the mail server")

    async with Jobs(dsn, provide={Mailer: broken, Clock: Clock}).running():
        handle = await defined.thread.set(max_attempts=1).later(1, MINE)
        with pytest.raises(Exception, match="no route to the mail server"):
            await handle.result(timeout=10)


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [
        (Dependency[Mailer], Mailer),
        (Dependency[Mailer | None], Mailer),  # type: ignore[misc]
        (Dependency[Mailer] | None, Mailer),
        (Annotated[Dependency[Mailer], "doc"], Mailer),
        (Dependency[Mailer | Clock], Mailer | Clock),  # type: ignore[misc]
        (Mailer, None),
        (Mailer | None, None),
        (Annotated[Mailer, "doc"], None),
        (Any, None),
    ],
)
def test_what_an_annotation_asks_for(annotation: Any, wanted: Any) -> None:
    """`| None` on either side only says that there may be none now."""
    assert dependency(annotation) == wanted
