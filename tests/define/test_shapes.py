"""`Later` on attrs classes, dataclasses and plain classes: what a method returns now, it returns later."""

from __future__ import annotations

import dataclasses
import datetime as dt
from abc import ABC, abstractmethod
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

import attrs
import pytest

from asyncjobs import InvalidDefinition, InvalidInput, Jobs, Later, job

T = TypeVar("T")
Number = TypeVar("Number", bound=Decimal)


def fields_of(thing: Any) -> str:
    """Everything an object keeps."""
    if attrs.has(type(thing)):
        return str({f.name: getattr(thing, f.name) for f in attrs.fields(type(thing))})
    if dataclasses.is_dataclass(thing):
        return str({f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)})
    return str(vars(thing))


class Tells(Later):
    """Says what it is made of."""

    __slots__ = ()

    async def call(self) -> str:
        return fields_of(self)

    def in_a_thread(self) -> str:
        return fields_of(self)


class Colour(Enum):
    RED = "red"


@attrs.frozen
class Point:
    x: int
    y: int = 0


@attrs.frozen
class Frozen(Tells):
    tenant: str
    size: int = 1


@attrs.define
class Defined(Tells):
    tenant: str
    tags: list[str] = attrs.Factory(list)


@attrs.define(slots=False)
class WithoutSlots(Tells):
    tenant: str


@attrs.frozen(kw_only=True)
class ByKeyword(Tells):
    tenant: str
    size: int = 1


@attrs.frozen
class Rich(Tells):
    when: dt.datetime
    id: UUID
    price: Decimal
    wait: dt.timedelta
    colour: Colour
    at: Point | None
    either: Point | str
    points: tuple[Point, ...] = ()


@attrs.frozen
class Private(Tells):
    _token: str
    __hidden: int = 2
    shown: str = attrs.field(default="s", alias="as_shown")


@attrs.frozen
class Derived(Tells):
    name: str
    length: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.name))


def shouted(name: str) -> str:
    return name.upper()


@attrs.define
class Converted(Tells):
    name: str = attrs.field(converter=shouted, validator=attrs.validators.min_len(1))


@attrs.frozen
class ByHand(Tells):
    name: str
    size: int

    def __init__(self, name: str) -> None:
        self.__attrs_init__(name, len(name))  # type: ignore[attr-defined]


@dataclasses.dataclass
class Data(Tells):
    tenant: str
    points: list[Point] = dataclasses.field(default_factory=list)
    count: int = dataclasses.field(init=False, default=7)
    unit: ClassVar[str] = "m"


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedData(Tells):
    tenant: str
    size: int = 1


@dataclasses.dataclass(kw_only=True)
class DataByKeyword(Tells):
    tenant: str
    size: int = 1


class Plain(Tells):
    def __init__(self, tenant: str, size: int = 1, *, when: dt.date | None = None) -> None:
        self.tenant = tenant
        self.size = size
        self.when = when


class ByPosition(Tells):
    def __init__(self, tenant: str, size: int = 1, /) -> None:
        self.tenant = tenant
        self.size = size


class SaidByTheClass(Tells):
    point: Point

    def __init__(self, point) -> None:
        self.point = point


class Untyped(Tells):
    def __init__(self, anything) -> None:
        self.anything = anything


class Nothing(Tells):
    pass


class OfAPlainBase(Plain):
    pass


@attrs.frozen
class OfAnAttrsBase(Frozen):
    more: Point = Point(3)


class NotDecorated(Frozen):
    """A subclass of an attrs class without a decorator of its own has its base's fields."""

    __slots__ = ()


@attrs.frozen
class Box(Tells, Generic[T]):
    held: T
    many: list[T] = attrs.Factory(list)

    @job
    async def swapped(self, other: T) -> T:
        return other


@attrs.frozen
class BoxOfPoints(Box[Point]):
    pass


@attrs.frozen
class BoxOfLists(Box[list[T]], Generic[T]):
    also: T | None = None


@attrs.frozen
class BoxOfListsOfPoints(BoxOfLists[Point]):
    pass


@attrs.frozen
class Priced(Tells, Generic[Number]):
    price: Number


class Abstract(Tells, ABC):
    @abstractmethod
    async def run(self) -> str: ...


@attrs.frozen
class Concrete(Abstract):
    tenant: str

    async def run(self) -> str:
        return self.tenant


@attrs.frozen
class RefersForward(Tells):
    to: DefinedLater
    myself: RefersForward | None = None


@attrs.frozen
class DefinedLater:
    x: int


NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)

OBJECTS: list[Tells] = [
    Frozen("acme"),
    Frozen("acme", size=3),
    Defined("acme", ["a"]),
    WithoutSlots("acme"),
    ByKeyword(tenant="acme", size=4),
    Rich(NOON, UUID(int=1), Decimal("1.10"), dt.timedelta(days=1), Colour.RED, None, Point(1), (Point(2),)),
    Private("secret", 3, "x"),
    Derived("acme"),
    Converted("acme"),
    ByHand("acme"),  # type: ignore[call-arg]
    Data("acme", [Point(1, 2)]),
    SlottedData("acme", 2),
    DataByKeyword(tenant="acme"),
    Plain("acme", when=NOON.date()),
    ByPosition("acme", 5),
    SaidByTheClass(Point(7)),
    Untyped({"a": [1, None]}),
    Nothing(),
    OfAPlainBase("acme", 2),
    OfAnAttrsBase("acme", 2),
    NotDecorated("acme"),
    Box({"plain": "data"}),
    BoxOfPoints(Point(1), [Point(2)]),
    BoxOfListsOfPoints([Point(1)], [[Point(2)]], Point(3)),
    Priced(Decimal("2.50")),
    Concrete("acme"),
    RefersForward(DefinedLater(1), RefersForward(DefinedLater(2))),
]


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: type(thing).__name__)
async def test_a_method_returns_later_what_it_returns_now(running: Jobs, thing: Tells) -> None:
    """The object is made again from its stored inputs, and nothing of it is lost or changed."""
    handles = [await thing.later("call"), await thing.later(thing.in_a_thread)]
    assert [await handle.result(timeout=10) for handle in handles] == [
        await thing.call(),
        thing.in_a_thread(),
    ]


async def test_the_fields_are_the_stored_inputs(running: Jobs) -> None:
    """A dictionary, by the names the class is made with."""
    stored = await (await Private("secret", 3, "x").later("call")).job()
    assert stored.args == {"token": "secret", "Private__hidden": 3, "as_shown": "x"}
    assert (await (await Derived("abc").later("call")).job()).args == {"name": "abc"}
    assert (await (await Nothing().later("call")).job()).args == {}


async def test_type_variables_are_what_the_subclass_says(running: Jobs) -> None:
    """A `@job` method of a generic class takes and returns what its subclass made of it."""
    handle = await BoxOfPoints(Point(1)).swapped.later(Point(2))
    assert await handle.result(timeout=10) == Point(2)
    with pytest.raises(
        InvalidInput, match=r"swapped cannot be stored: input other \(declared Point\) is 'x'"
    ):
        await BoxOfPoints(Point(1)).swapped.later("x")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"input price \(declared Decimal\) is 2\.5"):
        await Priced(2.5).later("call")  # type: ignore[type-var]


@pytest.mark.failure_mode("F94")
async def test_a_default_added_since_fills_in(running: Jobs) -> None:
    """Jobs enqueued before a field, a parameter or a `*args` existed get its default."""

    @attrs.frozen
    class Once(Later, kind="test_shapes:Grown"):
        tenant: str

        async def call(self) -> str:
            return "once"

    await running.pause("grown")
    try:
        handle = await Once("acme").later("call", queue="grown")

        @attrs.frozen
        class Grown(Later, kind="test_shapes:GrownSince"):
            tenant: str
            size: int = 7
            points: list[Point] = attrs.Factory(lambda: [Point(1)])

            async def call(self) -> str:
                return fields_of(self)

        _now_stands_for(Once, Grown)
    finally:
        await running.resume("grown")
    assert await handle.result(timeout=10) == fields_of(Grown("acme"))


@pytest.mark.failure_mode("F94")
async def test_a_field_without_a_default_fails_with_the_way_out(running: Jobs) -> None:
    """A job stored without a field that is required now is not run with nonsense."""

    @attrs.frozen
    class Before(Later, kind="test_shapes:Needy"):
        async def call(self) -> None: ...

    await running.pause("needy")
    try:
        handle = await Before().later("call", queue="needy", max_attempts=1)

        @attrs.frozen
        class Needy(Later, kind="test_shapes:NeedySince"):
            tenant: str

            async def call(self) -> None: ...

        _now_stands_for(Before, Needy)
    finally:
        await running.resume("needy")
    with pytest.raises(
        Exception, match=r"needs 'tenant', which this job was stored without; give it a default"
    ):
        await handle.result(timeout=10)


def _now_stands_for(before: type[Later], now: type[Later]) -> None:
    """A deployment: the kind of *before* is *now*'s."""
    from asyncjobs._define import registry

    registry._kinds[registry_kind(before)] = registry._kinds[registry_kind(now)]


def registry_kind(cls: type[Later]) -> str:
    kind: str = cls.__asyncjobs_service__.kind  # type: ignore[attr-defined]
    return kind


class Forgets(Later, kind="test_shapes:Forgets"):
    def __init__(self, tenant: str) -> None:
        self.name = tenant

    async def call(self) -> None: ...


class TakesAnything(Later, kind="test_shapes:TakesAnything"):
    def __init__(self, *names: str) -> None:
        self.names = names

    async def call(self) -> None: ...


class TakesAnyName(Later, kind="test_shapes:TakesAnyName"):
    def __init__(self, **names: str) -> None:
        self.names = names

    async def call(self) -> None: ...


@dataclasses.dataclass
class Initial(Later, kind="test_shapes:Initial"):
    size: dataclasses.InitVar[int] = 3

    async def call(self) -> None: ...


class Prefixes(Later, kind="test_shapes:Prefixes"):
    def __init__(self, path: str) -> None:
        self.path = "/data/" + path

    async def call(self) -> None: ...


def in_cents(euros: int) -> int:
    return euros * 100


@attrs.define
class InCents(Later, kind="test_shapes:InCents"):
    price: int = attrs.field(converter=in_cents)

    async def call(self) -> None: ...


@attrs.define(on_setattr=attrs.setters.NO_OP)
class Checked(Later, kind="test_shapes:Checked"):
    size: int

    def __attrs_post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is negative")

    async def call(self) -> None: ...


def negative() -> Checked:
    made = Checked(1)
    made.size = -1
    return made


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: Forgets("a"),
            InvalidInput,
            "Forgets has no attribute 'tenant'.*keep each parameter under its own name",
        ),
        (lambda: TakesAnything("a"), InvalidDefinition, r"takes \*names, so those inputs have no names"),
        (lambda: TakesAnyName(a="b"), InvalidDefinition, r"takes \*\*names, so those inputs have no names"),
        (lambda: Initial(4), InvalidDefinition, r"Initial\.size is an InitVar.*make it a field"),
        (
            lambda: Prefixes("x"),
            InvalidInput,
            r"Prefixes\.path is '/data/x', and would be something else once",
        ),
        (lambda: InCents(3), InvalidInput, r"InCents\.price is 300, and would be something else once"),
        (
            negative,
            InvalidInput,
            "Checked cannot be made again from what it keeps: ValueError: size is negative",
        ),
        (lambda: Frozen(3), InvalidInput, r"Frozen cannot be stored: input tenant \(declared str\) is 3"),  # type: ignore[arg-type]
        (lambda: Frozen("a", size=3.9), InvalidInput, r"input size \(declared int\) is 3\.9"),  # type: ignore[arg-type]
    ],
)
async def test_what_could_not_be_made_again_is_refused(
    running: Jobs, make: Any, error: type[Exception], words: str
) -> None:
    """In the caller of `later`, at once, with a sentence that says what to do; nothing is stored."""
    before = await running.list_jobs(limit=1)
    with pytest.raises(error, match=words):
        await make().later("call")
    assert await running.list_jobs(limit=1) == before


async def test_an_annotation_that_cannot_be_resolved_is_named(running: Jobs) -> None:
    """Under `TYPE_CHECKING` only, a name is not there when the job is stored."""

    class Lost(Later, kind="test_shapes:Lost"):
        def __init__(self, point: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
            self.point = point

        async def call(self) -> None: ...

    with pytest.raises(
        InvalidDefinition, match=r"Lost cannot be resolved: name 'Nowhere' is not defined.*TYPE_CHECKING"
    ):
        await Lost(Point(1)).later("call")


async def test_a_local_class_is_refused_unless_it_has_a_kind(running: Jobs) -> None:
    """No other process could find it; with a kind it can, once that process defines it too."""

    @attrs.frozen
    class Local(Later):
        tenant: str = "acme"

        async def call(self) -> str:
            return "ran"

    with pytest.raises(
        InvalidDefinition, match="Local is defined inside a function.*or give it a name with kind="
    ):
        await Local().later("call")

    @attrs.frozen
    class Named(Later, kind="test_shapes:Named"):
        tenant: str = "acme"

        async def call(self) -> str:
            return "ran"

    assert await (await Named().later("call")).result(timeout=10) == "ran"
