"""Keys of `lock=` and `unique=`: equal for what is alike, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncjobs import Lock
from asyncjobs._define.keys import make_key

values = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.lists(st.text(), max_size=3)
)
chosen = st.dictionaries(st.sampled_from(["tenant", "year", "a-b", "a"]), values, max_size=3)
spaces = st.sampled_from(["k", "k-a", "[k", 'k","a'])


@pytest.mark.security("SEC-S12")
@given(one=st.tuples(spaces, chosen), other=st.tuples(spaces, chosen))
def test_only_what_is_alike_has_one_key(
    one: tuple[str, dict[str, object]], other: tuple[str, dict[str, object]]
) -> None:
    """Whatever the values and the namespaces hold, brackets and commas too; `1` and `True` are not alike."""
    keys = [make_key(Lock("tenant"), lambda _, each=each: each[1], each[0]) for each in (one, other)]  # type: ignore[misc]
    assert (keys[0] == keys[1]) == (repr(_sorted(one)) == repr(_sorted(other)))


def _sorted(each: tuple[str, dict[str, object]]) -> tuple[str, list[tuple[str, object]]]:
    return each[0], sorted(each[1].items(), key=lambda item: item[0])
