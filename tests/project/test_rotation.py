"""The shares of a matrix together are the whole matrix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import rotation

pytestmark = pytest.mark.unit


@given(st.lists(st.integers(), max_size=60), st.integers(1, 9), st.integers(0, 10**6))
def test_successive_days_cover_every_point(points: list[int], shares: int, day: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        seen: list[int] = []
        for number in range(shares):
            patch.setenv(rotation.VARIABLE, str(day + number))
            part = rotation.share(points, shares)
            assert bool(part) == bool(points)
            seen += part
        if len(points) >= shares:
            assert sorted(seen) == sorted(points)
        else:
            assert set(seen) == set(points)


def test_all_is_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rotation.VARIABLE, rotation.ALL)
    assert rotation.share(range(10), 4) == list(range(10))
