"""A rate, and what is stored of it."""

from __future__ import annotations

from math import isclose

from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Rate
from asyncjobs._model.limits import MOST, rate_of

COUNTS = st.integers(1, MOST)
TIMES = st.integers(1, 864_000_000).map(lambda thousandths: thousandths / 1000)


@given(COUNTS, TIMES)
def test_a_rate_is_read_as_it_was_said(count: int, per: float) -> None:
    """Whatever is stored of it: the seconds between two tokens, and how many there may be."""
    said = Rate(count, per=per)
    assert rate_of(said.every, said.burst) == said


@given(COUNTS, TIMES, COUNTS)
def test_with_a_burst_of_its_own_it_is_the_same_rate(count: int, per: float, burst: int) -> None:
    """In the words of its burst; where that would take longer than a century, in those of one."""
    said = Rate(count, per=per, burst=burst)
    read = rate_of(said.every, said.burst)
    assert read.burst == burst
    assert read.count in (burst, 1)
    assert isclose(read.every, said.every, rel_tol=1e-9)
