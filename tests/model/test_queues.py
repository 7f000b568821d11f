"""Queues and their weights; slots and the priorities they take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import InvalidOption, QueueRegistry
from asyncjobs._engine.slots import Pool, make_pools
from asyncjobs._model.queues import Queue, place_of
from asyncjobs._model.urgency import LEAST_URGENT, Urgency, thresholds, urgency

names = st.text("abc", min_size=1, max_size=2)
registered = st.lists(st.tuples(names, st.integers(-9, 9), st.none() | st.integers(-3, 3)), max_size=8)


@pytest.mark.seed("T3")
def test_each_part_registers_its_own() -> None:
    """T3: "Registry: `register(app).queue(name, weight)`": chained, or as keywords; names begin with the part's."""
    chained, words = QueueRegistry(), QueueRegistry()
    chained.register("account").queue("default", 100).queue("refresh", -5000).full_queue("mail")
    words.register("account", default=100, refresh=-5000).full_queue("mail", 100)
    assert list(chained) == list(words)
    assert [(queue.name, queue.weight) for queue in chained] == [
        ("account_default", 100),
        ("mail", 100),
        ("account_refresh", -5000),
    ]


@pytest.mark.seed("T3")
@given(registered)
def test_the_higher_weight_wins(entries: list[tuple[str, int, int | None]]) -> None:
    """T3: "… conflict rule": whoever registers first, the higher weight wins, and the more urgent priority."""
    there, back = QueueRegistry(), QueueRegistry()
    for name, weight, priority in entries:
        there.register().queue(name, weight, priority=priority)
    for name, weight, priority in reversed(entries):
        back.register().queue(name, weight, priority=priority)
    assert list(there) == list(back)
    for queue in there:
        theirs = [(weight, priority) for name, weight, priority in entries if name == queue.name]
        assert queue.weight == max(weight for weight, _ in theirs)
        assert queue.priority == min((each for _, each in theirs if each is not None), default=None)
        assert there.weight_of(queue.name) == queue.weight


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (lambda queues: queues.register("a\n"), "app='a\\n' is not a name"),
        (lambda queues: queues.register("a").queue(""), "queue='' is not a name"),
        (lambda queues: queues.register("a").queue("x" * 119), "is not a name"),
        (lambda queues: queues.register("a", b=True), "weight=True of queue 'a_b' is not a whole number"),
        (lambda queues: queues.register("a", b=10**7), "weight=10000000 of queue 'a_b'"),
        (lambda queues: queues.register("a").queue("b", priority=40_000), "priority=40000"),
    ],
)
def test_what_makes_no_sense_is_not_registered(register, says: str) -> None:
    """It is refused where it is written."""
    queues = QueueRegistry()
    with pytest.raises(InvalidOption, match=".*") as refused:
        register(queues)
    assert says in str(refused.value)
    assert not queues


def test_where_a_job_goes() -> None:
    """Its part's name before its queue's, dots of a package as underscores; the priority is its own, else its queue's."""
    queues = QueueRegistry()
    queues.register("account").queue("slow", priority=50)
    assert place_of({"queue": "slow"}, queues) == ("slow", 0)
    assert place_of({"queue": "slow", "app": "account"}, queues) == ("account_slow", 50)
    assert place_of({"queue": "slow", "app": "account", "priority": 0}, queues) == ("account_slow", 0)
    assert place_of({"queue": "account_slow", "app": None}, queues) == ("account_slow", 50)
    assert place_of({"queue": "slow", "app": "my.account"}, queues) == ("my_account_slow", 0)


def test_the_default_slots_of_que() -> None:
    """Q9: "threshold slots with exact default 10,30,50,any×3 reproducible"."""
    que = make_pools(None, "10,30,50,any,any,any")
    assert [str(pool) for pool in que] == [
        "<1 slot for every queue (priority up to 10)>",
        "<1 slot for every queue (priority up to 30)>",
        "<1 slot for every queue (priority up to 50)>",
        "<3 slots for every queue>",
    ]
    assert list(map(str, make_pools(None, [10, 30, 50, None, None, None]))) == list(map(str, que))
    assert sum(pool.size for pool in que) == 6


@given(st.lists(st.none() | st.integers(-32768, 32767), min_size=1, max_size=20))
def test_thresholds_lose_no_slot(slots: list[int | None]) -> None:
    """Written either way, as many slots as were written, the most urgent first."""
    text = ",".join("any" if slot is None else str(slot) for slot in slots)
    counts = thresholds(slots)
    assert thresholds(text) == counts
    assert list(counts) == sorted(counts)
    assert sum(counts.values()) == len(slots)
    assert counts.get(LEAST_URGENT, 0) >= slots.count(None)


@pytest.mark.parametrize(
    ("slots", "says"),
    [
        ("10,soon", "neither a number of slots nor thresholds"),
        ([], "has no slots"),
        ([True], "is not a whole number"),
        ("10,40000", "is not a whole number"),
        (0, "is not a number of slots"),
        (2.5, "neither a number of slots"),
    ],
)
def test_slots_that_are_none(slots: object, says: str) -> None:
    """They are refused in words."""
    with pytest.raises(InvalidOption, match=says):
        make_pools(None, slots)  # type: ignore[arg-type]


def test_a_range_of_priorities() -> None:
    """Lower is more urgent: the bounds are the words' own; nothing between is refused, as is a slot that takes none."""
    assert urgency(None, None) == Urgency()
    assert urgency(-5, 10) == (-5, 10)
    with pytest.raises(InvalidOption, match="min_priority=3 is above max_priority=2"):
        urgency(3, 2)
    with pytest.raises(InvalidOption, match="up to 10 takes none from 11 on"):
        make_pools(None, "10,any", urgency=Urgency(11, 20))
    assert [pool.urgency for pool in make_pools({"a": 1}, urgency=Urgency(1, 20))] == [(1, 20)]


def test_a_slot_is_reserved_where_queues_share_slots() -> None:
    """T3: "… strict weights but with reserved slot (configurable)": one of those that several queues share, none of one."""
    assert [(pool.size, pool.by_weight) for pool in make_pools(None, 20, reserved=1)] == [
        (19, True),
        (1, False),
    ]
    assert [(pool.size, pool.by_weight) for pool in make_pools(None, 20, reserved=30)] == [
        (1, True),
        (19, False),
    ]
    assert [pool.size for pool in make_pools(None, 20, reserved=0)] == [20]
    assert [pool.size for pool in make_pools(None, 1, reserved=1)] == [1]
    assert [pool.size for pool in make_pools({"a": 5}, reserved=1)] == [5]
    assert [pool.size for pool in make_pools({("a", "b"): 5}, reserved=1)] == [4, 1]


def test_pools_that_queues_share() -> None:
    """A tuple of queues shares its slots; * is every queue."""
    a, star = make_pools({("a", "b"): 2, "*": 1})
    assert (set(a.queues), a.size, star.serves("anything")) == ({"a", "b"}, 2, True)
    assert isinstance(a, Pool)
    with pytest.raises(InvalidOption, match="names no queue"):
        make_pools({(): 1})


def test_queues_are_values() -> None:
    """Two registrations of one queue merge, whichever comes first."""
    assert (
        Queue("q", 1, 5).merged(Queue("q", 2)) == Queue("q", 2, 5) == Queue("q", 2).merged(Queue("q", 1, 5))
    )
