"""A rate, and what is stored of it."""

from __future__ import annotations

from math import isclose

from hypothesis import assume, given
from hypothesis import strategies as st

from asyncjobs import Rate
from asyncjobs._model.durations import A_CENTURY
from asyncjobs._model.limits import MOST, Window, stored_rate

COUNTS = st.integers(1, MOST)
TIMES = st.integers(1, 864_000_000).map(lambda thousandths: thousandths / 1000)


WINDOWS = st.sampled_from([None, "sliding", "fixed"])


@given(COUNTS, TIMES, WINDOWS)
def test_a_rate_is_read_as_it_was_said(count: int, per: float, window: Window | None) -> None:
    """Whatever is stored of it: the seconds between two tokens, how many there may be, and the kind."""
    said = Rate(count, per=per, window=window)
    assert stored_rate(said.every, said.burst, window) == said


@given(COUNTS, TIMES, COUNTS)
def test_with_a_burst_of_its_own_it_is_the_same_rate(count: int, per: float, burst: int) -> None:
    """In the words of its burst."""
    assume(per / count * burst <= A_CENTURY)
    said = Rate(count, per=per, burst=burst)
    read = stored_rate(said.every, said.burst, None)
    assert (read.burst, read.count) == (burst, burst)
    assert isclose(read.every, said.every, rel_tol=1e-9)
