"""What a class may not call its own, and which methods `later` takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest

from asyncjobs import InvalidDefinition, InvalidOption, Jobs, Later, job


@pytest.mark.parametrize("name", ["later", "later_many", "prepare"])
@pytest.mark.parametrize("decorate", [attrs.frozen, attrs.define, dataclasses.dataclass, lambda cls: cls])
@pytest.mark.parametrize("value", [False, True])
def test_a_field_that_would_hide_later_is_refused(name: str, decorate: Any, value: bool) -> None:
    """On attrs classes, dataclasses and plain ones, with a default or without."""
    body = {
        "__annotations__": {name: int},
        "__module__": __name__,
        **dict.fromkeys([name] if value else [], 3),
    }
    with pytest.raises(
        InvalidDefinition,
        match=rf"Hides\.{name} would hide the {name} of asyncjobs\.Later; give it another name",
    ):
        decorate(type("Hides", (Later,), body, kind="test_names:Hides"))


def test_a_method_that_would_hide_later_is_refused() -> None:
    """And so is a parameter, which an object would keep under that name, and what a base brings along."""
    with pytest.raises(InvalidDefinition, match="would hide the prepare of asyncjobs.Later"):

        class Method(Later, kind="test_names:Method"):
            def prepare(self) -> None: ...  # type: ignore[override]

    with pytest.raises(InvalidDefinition, match="would hide the later of asyncjobs.Later"):

        class Parameter(Later, kind="test_names:Parameter"):
            def __init__(self, later: bool) -> None:
                self.later = later  # type: ignore[method-assign, assignment]

    @attrs.frozen
    class Mixin:
        later: bool

    with pytest.raises(InvalidDefinition, match=r"Mixin\.later would hide"):

        class Inherits(Mixin, Later, kind="test_names:Inherits"):  # type: ignore[misc]
            pass


@pytest.mark.parametrize(
    "body",
    [
        {"__annotations__": {"needed": bool}},
        {"needed": True},
        {"needed": property(lambda self: True)},
        {"needed": staticmethod(lambda: True)},
        {"needed": lambda self, when: True},
        {"__init__": lambda self, needed: None},
    ],
)
def test_needed_is_a_method(body: dict[str, Any]) -> None:
    """It is asked before the job runs; anything else of that name would be asked too, and answer nonsense."""
    with pytest.raises(InvalidDefinition, match="needed is asked before the job runs.*or name it otherwise"):
        type("Needs", (Later,), body, kind="test_names:Needs")


def test_needed_may_have_defaults() -> None:
    """What matters is that it can be asked without arguments."""

    class Needs(Later, kind="test_names:NeedsDefaults"):
        def needed(self, really: bool = True, *more: int, **others: int) -> bool:
            return really


@attrs.frozen
class Export(Later):
    tenant: str
    call_me = 3

    async def call(self) -> int:
        return 1

    async def export_stations(self, limit: int = 3) -> int:
        return limit

    async def with_arguments(self, limit: int, *, order: str) -> None: ...

    async def _private(self) -> None: ...

    @property
    def size(self) -> int:
        return 1

    @staticmethod
    async def of_nobody() -> None: ...

    @classmethod
    async def of_class(cls) -> None: ...

    def numbers(self) -> Iterator[int]:
        yield 1

    async def async_numbers(self) -> AsyncIterator[int]:
        yield 1

    async def needed(self) -> bool:
        return True

    @job
    async def a_job(self) -> None: ...

    class Inner: ...


METHODS = "it has a_job, async_numbers, call, export_stations, numbers, with_arguments"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cal", "Export has no public method 'cal'; did you mean 'call'?"),
        ("export_station", "Export has no public method 'export_station'; did you mean 'export_stations'?"),
        ("zzz", f"Export has no public method 'zzz'; {METHODS}"),
        ("", f"Export has no public method ''; {METHODS}"),
        ("later", "Export has no public method 'later'"),
        ("needed", "Export has no public method 'needed'"),
        ("_private", "Export._private is private, but a job names it from outside; give it a public name"),
        ("__init__", "Export.__init__ is private"),
        ("tenant", "Export.tenant is not a method of its objects"),
        ("call_me", "Export.call_me is not a method of its objects"),
        ("size", "Export.size is not a method of its objects"),
        ("of_nobody", "Export.of_nobody is not a method of its objects"),
        ("of_class", "Export.of_class is not a method of its objects"),
        ("Inner", "Export.Inner is not a method of its objects"),
        ("numbers", "Export.numbers is a generator; a job returns once, so collect what it yields"),
        ("async_numbers", "Export.async_numbers is a generator"),
        (
            "with_arguments",
            "Export.with_arguments takes arguments (limit, order), and `later` passes none; decorate it with @job and write",
        ),
    ],
)
async def test_later_takes_a_public_method_without_required_arguments(
    running: Jobs, name: str, words: str
) -> None:
    """Anything else is refused in the caller, with a message that teaches."""
    with pytest.raises(InvalidDefinition) as refusal:
        await Export("acme").later(name)
    assert words in str(refusal.value)


async def test_a_method_with_defaults_is_called_without_arguments(running: Jobs) -> None:
    """Its defaults are the ones of where it runs."""
    assert await (await Export("acme").later("export_stations")).result(timeout=10) == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            Export("other").call,
            "call is bound to Export(tenant='other'), not to the object whose `later` was called",
        ),
        (Export("other").a_job, "a_job is bound to Export(tenant='other'), not to the object"),
        (Export.call, 'by name or bound, as in later("call") or later(obj.call), not <function Export.call'),
        (lambda: 1, 'by name or bound, as in later("call")'),
        (functools.partial(Export("acme").call), 'by name or bound, as in later("call")'),
        (None, 'by name or bound, as in later("call") or later(obj.call), not None'),
        (Export.of_class, "of_class is bound to <class"),
    ],
)
async def test_later_takes_a_name_or_a_bound_method(running: Jobs, call: Any, words: str) -> None:
    """Of this very object."""
    with pytest.raises(InvalidDefinition) as refusal:
        await Export("acme").later(call)
    assert words in str(refusal.value)


async def test_a_slip_of_the_pen_is_taught(running: Jobs) -> None:
    """The method called instead of named, the class instead of an object, nothing at all."""
    with pytest.raises(
        InvalidDefinition, match=r"Export\.call\(\) was called already; `later` takes the method itself"
    ):
        await Export("acme").later(Export("acme").call())  # type: ignore[call-overload]
    with pytest.raises(
        InvalidDefinition, match=r'`later` is a method of the objects: MyClass\(…\)\.later\("call"\)'
    ):
        await Export.later("call")  # type: ignore[call-overload]
    with pytest.raises(
        InvalidDefinition,
        match=r'later takes a method of the object, by name or bound, as in later\("call"\)',
    ):
        await Export("acme").later()  # type: ignore[call-overload]


async def test_the_bound_method_is_the_named_one(running: Jobs) -> None:
    """An equal object is not the same one, and a method of the class before it was overridden is another."""
    export = Export("acme")
    assert await (await export.later(export.call)).result(timeout=10) == 1

    @attrs.frozen
    class More(Export, kind="test_names:More"):
        async def call(self) -> int:
            return 2

        async def before(self) -> Any:
            return await self.later(super().call)

    with pytest.raises(InvalidDefinition, match=r"the call given is not what .*More\.call is"):
        await More("acme").before()


async def test_options_are_never_mixed_with_inputs(running: Jobs) -> None:
    """A field's name is no option, and the refusal lists the options."""
    with pytest.raises(
        InvalidOption, match="later has no option 'tenant'; there are app, at, backoff, context, delay, fair"
    ):
        await Export("acme").later("call", tenant="x")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="later has no option 'quue'; did you mean 'queue'"):
        await Export("acme").later("call", quue="x")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"class .*Typo has no option 'quue'; did you mean 'queue'"):

        class Typo(Later, quue="x"):  # type: ignore[call-arg]
            pass


async def test_only_what_derives_from_later_can_be_later(running: Jobs) -> None:
    """`later_many` takes objects of any of its classes, and of no others."""
    handles = await Later.later_many([Export("a"), Export("b")], "call")
    assert [await handle.result(timeout=10) for handle in handles] == [1, 1]
    before = await running.list_jobs(limit=1)
    with pytest.raises(InvalidDefinition, match=r"3 is no object of a class derived from asyncjobs\.Later"):
        await Later.later_many([Export("a"), 3], "call")  # type: ignore[list-item]
    with pytest.raises(InvalidDefinition, match=r"is no object of a class derived from asyncjobs\.Later"):
        await Later().later("call")
    assert await running.list_jobs(limit=1) == before


async def test_many_are_stored_by_one_who_says_where(running: Jobs) -> None:
    """An `on=` of one of many would be ignored, so it is refused."""
    prepared = [Export("a").prepare("call"), Export("b").prepare("call", on=object())]
    with pytest.raises(InvalidOption, match=r"Export\.call was prepared with an on= or jobs= of its own"):
        await running.enqueue_many(prepared)
    prepared = [Export("a").prepare("call", priority=3, jobs=running)]
    (handle,) = await running.enqueue_many(prepared)
    assert (await handle.job()).priority == 3
