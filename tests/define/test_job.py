"""`@job`: the function as it was, and its `later`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any, TypedDict, TypeVar, Unpack

import attrs
import httpx
import pytest
from fastapi import Depends, FastAPI

from asyncjobs import (
    Exponential,
    InvalidDefinition,
    InvalidInput,
    InvalidOption,
    Jobs,
    JobState,
    Later,
    job,
)
from tests.kinds import forgotten

F = TypeVar("F", bound=Callable[..., Any])


@job
async def bare(user_id: int, *, locale: str = "en") -> str:
    """Says whom it greets."""
    return f"{user_id} {locale}"


@job(queue="mail", backoff=Exponential(first=timedelta(seconds=2)))
async def with_options(user_id: int, *, locale: str = "en") -> str:
    return f"{user_id} {locale}"


@job
def in_a_thread(user_id: int, locale: str = "en") -> str:
    return f"{user_id} {locale}"


@job
async def by_position(a: int, b: int = 2, /, *, c: int = 3) -> list[int]:
    return [a, b, c]


@job
async def many(first: int, *rest: int, named: int = 0, **others: float) -> list[Any]:
    return [first, list(rest), named, others]


class Size(TypedDict):
    width: int
    height: int


@job
async def sized(**size: Unpack[Size]) -> int:
    return size["width"] * size["height"]


@job
async def nothing() -> None: ...


def doubling(function: F) -> F:
    @functools.wraps(function)
    async def double(*args: Any, **kwargs: Any) -> Any:
        return 2 * await function(*args, **kwargs)

    return double  # type: ignore[return-value]


@job
@doubling
async def decorated(n: int = 1) -> int:
    return n


@attrs.frozen
class Mailer(Later):
    sender: str

    @job
    async def welcome(self, user_id: int, *, locale: str = "en") -> str:
        """Greets."""
        return f"{self.sender} {user_id} {locale}"

    @job(queue="slow", max_attempts=2)
    def in_a_thread(self, *user_ids: int) -> list[int]:
        return [len(self.sender), *user_ids]

    @job
    async def no_arguments(self) -> str:
        return self.sender

    async def call(self) -> str:
        return self.sender


class Kind(Mailer):
    __slots__ = ()

    @job
    async def welcome(self, user_id: int, *, locale: str = "de") -> str:
        return "kind " + await super().welcome(user_id, locale=locale)

    async def again(self) -> Any:
        return await super().welcome.later(1)


CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (bare, (42,), {}),
    (bare, (42,), {"locale": "de"}),
    (bare, (), {"user_id": 42}),
    (with_options, (42,), {}),
    (in_a_thread, (42, "fr"), {}),
    (by_position, (1,), {}),
    (by_position, (1, 3), {"c": 4}),
    (many, (1,), {}),
    (many, (1, 2, 3), {"named": 4, "other": 0.5}),
    (sized, (), {"width": 2, "height": 3}),
    (nothing, (), {}),
    (decorated, (), {"n": 4}),
    (Mailer("post").welcome, (42,), {"locale": "de"}),
    (Mailer("post").in_a_thread, (1, 2), {}),
    (Mailer("post").no_arguments, (), {}),
    (Kind("post").welcome, (42,), {}),
    (Kind("post").in_a_thread, (), {}),
]


@pytest.mark.parametrize(("call", "args", "kwargs"), CALLS)
async def test_a_call_returns_later_what_it_returns_now(
    running: Jobs, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Called, it is the function; through `later` it is the same call, elsewhere."""
    now = call(*args, **kwargs)
    if inspect.isawaitable(now):
        now = await now
    assert await (await call.later(*args, **kwargs)).result(timeout=10) == now
    (prepared,) = await running.enqueue_many([call.prepare(*args, **kwargs)])
    assert await prepared.result(timeout=10) == now
    handle = await call.set(queue="other", priority=-10).later(*args, **kwargs)
    assert await handle.result(timeout=10) == now
    stored = await handle.job()
    assert (stored.queue, stored.priority) == ("other", -10)


async def test_the_inputs_are_stored_by_name(running: Jobs) -> None:
    """Whatever way they were passed; the arguments of a method stand beside the fields."""
    assert (await (await bare.later(42)).job()).args == {"user_id": 42}
    assert (await (await many.later(1, 2, x=1.0)).job()).args == {
        "first": 1,
        "rest": [2],
        "others": {"x": 1.0},
    }
    stored = await (await Mailer("post").welcome.later(42)).job()
    assert stored.args == {"sender": "post", "()": {"user_id": 42}}
    assert stored.kind.endswith(".test_job:Mailer")
    assert stored.method == "welcome"


async def test_a_method_is_enqueued_by_name_bound_or_itself(running: Jobs) -> None:
    """A `@job` method without required arguments is a method like any other."""
    mailer = Mailer("post")
    for handle in (
        await mailer.later("no_arguments"),
        await mailer.later(mailer.no_arguments),
        await mailer.no_arguments.later(),
        await mailer.later(mailer.call),
    ):
        assert await handle.result(timeout=10) == "post"


async def test_arguments_are_given_to_the_method_itself(running: Jobs) -> None:
    """`later` of the object passes none, and says so."""
    mailer = Mailer("post")
    for call in ("welcome", mailer.welcome):
        with pytest.raises(InvalidDefinition) as refusal:
            await mailer.later(call)  # type: ignore[arg-type]
        assert str(refusal.value) == (
            "Mailer.welcome takes arguments (user_id), and `later` passes none; write `await obj.welcome.later(…)`"
        )


async def test_a_function_may_have_grown_since(running: Jobs) -> None:
    """Parameters with defaults, wherever they were added, do not disturb the jobs enqueued before."""
    with forgotten():

        @job(kind="test_job:grown")
        async def before(b: int, /) -> list[int]:
            return [b]

        @job(kind="test_job:grown_many")
        async def many_before(*rest: int) -> list[int]:
            return list(rest)

        await running.pause("growing")
        handles = [
            await before.set(queue="growing").later(5),
            await many_before.set(queue="growing").later(5, 6),
            await many_before.set(queue="growing").later(),
        ]
    with forgotten():

        @job(kind="test_job:grown")
        async def since(a: int = 1, b: int = 2, /, *, c: int = 3) -> list[int]:
            return [a, b, c]

        @job(kind="test_job:grown_many")
        async def many_since(first: int = 0, *rest: int, **others: int) -> list[int]:
            return [first, *rest, *others.values()]

        await running.resume("growing")
        assert [await handle.result(timeout=10) for handle in handles] == [[1, 5, 3], [0, 5, 6], [0]]


async def test_the_class_options_hold_for_its_job_methods(running: Jobs) -> None:
    """`@job(…)` says more about one method."""
    stored = await (await Mailer("post").in_a_thread.later()).job()
    assert (stored.queue, stored.max_attempts) == ("slow", 2)
    stored = await (await Mailer("post").welcome.later(1)).job()
    assert (stored.queue, stored.max_attempts) == ("default", 10)


async def test_options_are_set_one_after_the_other(running: Jobs) -> None:
    """What is said last wins, and the others stay."""
    handle = await bare.set(queue="a", priority=1).set(queue="b").later(1)
    stored = await handle.job()
    assert (stored.queue, stored.priority) == ("b", 1)


async def test_a_delayed_job_is_scheduled(running: Jobs) -> None:
    """`delay` counts from the database's now."""
    handle = await bare.set(delay=timedelta(minutes=5)).later(1)
    assert await handle.status() is JobState.SCHEDULED
    stored = await handle.job()
    assert stored.scheduled_at - stored.created_at == timedelta(minutes=5)
    assert await handle.cancel() == "cancelled"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bare.later(), "bare() needs a value for 'user_id'"),  # type: ignore[call-arg]
        (lambda: bare.later(1, "de"), "bare() does not take these arguments: too many positional arguments"),  # type: ignore[call-arg]
        (lambda: bare.later(1, user_id=2), "multiple values for argument 'user_id'"),  # type: ignore[misc]
        (
            lambda: bare.later(1, locle="de"),  # type: ignore[call-arg]
            "got an unexpected keyword argument 'locle'; did you mean 'locale'?",
        ),
        (lambda: bare.later(1, delay=5), "options are said before the arguments: .set(delay=…).later(…)"),  # type: ignore[call-arg]
        (lambda: bare.later("42"), "bare() cannot be stored: input user_id (declared int) is '42'"),  # type: ignore[arg-type]
        (lambda: bare.later(3.9), "input user_id (declared int) is 3.9"),  # type: ignore[arg-type]
        (lambda: Mailer("p").welcome.later(), "Mailer.welcome needs a value for 'user_id'"),  # type: ignore[call-arg]
        (
            lambda: Mailer("p").welcome.later("x"),  # type: ignore[arg-type]
            "Mailer.welcome cannot be stored: input user_id (declared int)",
        ),
    ],
)
async def test_arguments_that_do_not_fit_are_refused(running: Jobs, call: Any, words: str) -> None:
    """In the caller, at once, saying what is wrong; nothing is stored."""
    before = await running.list_jobs(limit=1)
    with pytest.raises(InvalidInput) as refusal:
        await call()
    assert words in str(refusal.value)
    assert await running.list_jobs(limit=1) == before


def numbers() -> Iterator[int]:
    yield 1


async def async_numbers() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (numbers, "numbers is a generator; a job returns once"),
        (async_numbers, "async_numbers is a generator; a job returns once"),
        (staticmethod(numbers), "needs no object; decorate a function at the top of the module"),
        (classmethod(lambda cls: None), "needs no object; decorate a function at the top of the module"),
        (Mailer, "Mailer is a class; derive it from asyncjobs.Later"),
        (bare, "<job .*bare> is a job already"),
        (Mailer("a").welcome, "<job .*welcome of .*> is a job already"),
        (Mailer("a").call, "call is bound to an object already; put @job where the class defines it"),
        (functools.partial(numbers), "which have a name, and not functools.partial"),
        (3, "and not 3; write a `def` around it"),
    ],
)
def test_what_cannot_be_a_job_is_refused(thing: Any, words: str) -> None:
    """Where it is decorated, with the way out."""
    with pytest.raises(InvalidDefinition, match=words):
        job(thing)
    with pytest.raises(InvalidDefinition, match=words):
        job(queue="q")(thing)


def _cause(raised: pytest.ExceptionInfo[BaseException]) -> BaseException:
    """Before Python 3.12 what `__set_name__` raises comes as the cause of a RuntimeError."""
    if isinstance(raised.value, RuntimeError) and raised.value.__cause__ is not None:
        return raised.value.__cause__
    return raised.value


def test_a_method_of_a_class_that_is_no_later_is_refused() -> None:
    """Where the class is defined: its objects could not be made again."""
    with pytest.raises((InvalidDefinition, RuntimeError)) as raised:

        class Service:
            @job
            async def run(self) -> None: ...

    assert isinstance(_cause(raised), InvalidDefinition)
    assert "Service is no Later" in str(_cause(raised))
    assert "derive it from asyncjobs.Later, or decorate a function" in str(_cause(raised))


def test_a_method_of_no_object_is_refused() -> None:
    """A class method around `@job` too."""
    with pytest.raises(InvalidDefinition, match="run needs no object; decorate a function"):

        class Service(Later, kind="test_job:NoObject"):
            @classmethod
            @job
            async def run(cls) -> None: ...


def test_a_kind_belongs_to_the_class() -> None:
    """Of a method one cannot say `kind=`."""
    with pytest.raises(InvalidDefinition, match="run is a method: its kind is its class', say kind= there"):

        class Service(Later, kind="test_job:KindOfMethod"):
            @job(kind="other")
            async def run(self) -> None: ...


def test_a_private_method_is_refused() -> None:
    """A job names its method from outside."""
    with pytest.raises(InvalidDefinition, match="_run is private, but a job names it from outside"):

        class Service(Later, kind="test_job:PrivateMethod"):
            @job
            async def _run(self) -> None: ...


async def test_a_method_is_enqueued_from_an_object(running: Jobs) -> None:
    """The class alone has no fields to store."""
    with pytest.raises(
        InvalidDefinition, match=r"is enqueued from an object: await Mailer\(…\)\.welcome\.later\(…\)"
    ):
        await Mailer.welcome.later(Mailer("a"), 42)


async def test_a_local_function_is_refused_unless_it_has_a_kind(running: Jobs) -> None:
    """No other process could find it."""

    @job
    async def local() -> str:
        return "ran"

    with pytest.raises(
        InvalidDefinition, match=r"local is defined inside a function.*or give it a name with kind="
    ):
        await local.later()
    with pytest.raises(InvalidDefinition, match=r"is a lambda.*or give it a name with kind="):
        await job(lambda: 1).later()
    named = job(kind="test_job:named")(lambda: "ran")
    assert await (await named.later()).result(timeout=10) == "ran"


async def test_what_a_subclass_overrides_is_what_runs(running: Jobs) -> None:
    """The method is stored by name, so `super()` cannot mean another one; it is refused where it is written."""
    with pytest.raises(InvalidDefinition, match=r"the welcome given is not what Kind\.welcome is"):
        await Kind("post").again()


class Holder:
    """A class that is no Later may hold a function that is a job."""

    send = bare
    sender: Any = with_options


async def test_a_job_may_be_an_attribute_of_any_class(running: Jobs) -> None:
    """It is a function there, as any other, and enqueued from the class."""
    assert await (await Holder.send.later(1)).result(timeout=10) == "1 en"
    with pytest.raises(InvalidDefinition, match="bare stands in Holder, which is no Later"):
        await Holder().send.later()


# Still a function, to those who look.


@pytest.mark.parametrize("function", [bare, Mailer.welcome, Mailer("a").welcome, Kind("a").welcome])
def test_a_coroutine_function_stays_one(function: Any) -> None:
    """For inspect, for asyncio, and so for every framework."""
    assert inspect.iscoroutinefunction(function)
    if sys.version_info < (3, 14):
        assert asyncio.iscoroutinefunction(function)


@pytest.mark.parametrize("function", [in_a_thread, Mailer("a").in_a_thread])
def test_a_sync_function_is_none(function: Any) -> None:
    """Nor does it become one."""
    assert not inspect.iscoroutinefunction(function)


def test_a_job_looks_as_its_function() -> None:
    """Name, module, documentation, signature and the function itself."""
    assert (bare.__name__, bare.__qualname__, bare.__doc__) == ("bare", "bare", "Says whom it greets.")
    assert bare.__module__ == __name__
    assert str(inspect.signature(bare)) == "(user_id: 'int', *, locale: 'str' = 'en') -> 'str'"
    assert inspect.unwrap(bare) is bare.function
    assert bare.__globals__ is globals()  # type: ignore[attr-defined]  # where frameworks look names up
    assert repr(bare).endswith("test_job.bare>")


def test_a_bound_job_looks_as_a_bound_method() -> None:
    """With the object in its place, which is no parameter."""
    mailer = Mailer("a")
    bound = mailer.welcome
    assert str(inspect.signature(bound)) == "(user_id: 'int', *, locale: 'str' = 'en') -> 'str'"
    assert (bound.__name__, bound.__qualname__, bound.__doc__) == ("welcome", "Mailer.welcome", "Greets.")  # type: ignore[attr-defined]
    assert bound.__self__ is mailer
    assert bound.__func__ is Mailer.welcome.function
    assert bound == mailer.welcome
    assert hash(bound) == hash(mailer.welcome)
    assert bound not in (Mailer("a").welcome, mailer.no_arguments, 3)
    assert repr(bound) == f"<job {__name__}.Mailer.welcome of Mailer(sender='a')>"
    with pytest.raises(AttributeError, match="latr"):
        bound.latr  # type: ignore[attr-defined]  # noqa: B018


def test_a_job_is_pickled_by_name() -> None:
    """As functions are, so that it can be given to a process pool."""
    assert pickle.loads(pickle.dumps(bare)) is bare
    assert pickle.loads(pickle.dumps(Mailer.welcome)) is Mailer.welcome
    assert pickle.loads(pickle.dumps(Mailer("a").welcome)).__self__ == Mailer("a")


async def test_jobs_serve_as_routes_and_dependencies() -> None:
    """FastAPI reads the signature, sees the coroutine function, and calls it."""
    app = FastAPI()
    app.get("/bare/{user_id}")(bare)
    app.get("/thread/{user_id}")(in_a_thread)
    app.get("/bound/{user_id}")(Mailer("post").welcome)

    @app.get("/depends/{user_id}")
    async def depends(
        text: Annotated[str, Depends(bare)], other: Annotated[str, Depends(in_a_thread)]
    ) -> list[str]:
        return [text, other]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        for path, answer in {
            "/bare/42?locale=de": "42 de",
            "/thread/42": "42 en",
            "/bound/42": "post 42 en",
            "/depends/42?locale=fr": ["42 fr", "42 fr"],
        }.items():
            response = await client.get(path)
            assert (response.status_code, response.json()) == (200, answer)
        documented = (await client.get("/openapi.json")).json()["paths"]
    assert documented["/bare/{user_id}"]["get"]["description"] == "Says whom it greets."
    assert documented["/bound/{user_id}"]["get"]["description"] == "Greets."


def test_the_oldest_and_newest_python_agree(tmp_path: Any) -> None:
    """What the tests above say of this Python is asked of it in a fresh process too: nothing depends on pytest's import."""
    script = tmp_path / "plain.py"
    script.write_text(
        "import asyncio, inspect\nfrom asyncjobs import Later, job\n"
        "class Mailer(Later):\n    @job\n    async def welcome(self): ...\n"
        "assert inspect.iscoroutinefunction(Mailer().welcome) and inspect.iscoroutinefunction(Mailer.welcome)\n"
    )
    subprocess.run([sys.executable, "-W", "error", str(script)], check=True)


def test_options_are_checked_where_they_are_written() -> None:
    """A word that is none, and a value that makes no sense."""
    with pytest.raises(InvalidOption, match="@job has no option 'quue'; did you mean 'queue'"):
        job(quue="mail")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"bare\.set has no option 'quue'; did you mean 'queue'"):
        bare.set(quue="mail")  # type: ignore[call-arg]
    with pytest.raises(
        InvalidOption, match=r"welcome\.set has no option 'tennant'; there are app, at, backoff"
    ):
        Mailer("a").welcome.set(tennant="mail")  # type: ignore[call-arg]
