"""Exhaustive matrices in shares: each run takes a share of the points; the shares of successive days cover all.

``USHIELD_TEST_SHARE`` selects the share: a number, or ``all`` for every point (``make test-full``). The default is the
number of the day. The head of a run shows it, so that a failure can be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

T = TypeVar("T")

VARIABLE: Final = "USHIELD_TEST_SHARE"
ALL: Final = "all"


def settle() -> str:
    """Fix the share for this run and the processes that it starts, also if the day ends meanwhile; return it."""
    return os.environ.setdefault(VARIABLE, str(datetime.now(UTC).toordinal()))


def share(points: Sequence[T], shares: int) -> list[T]:
    """Return this run's share of the points of a matrix.

    Args:
        points: all points.
        shares: how many runs together cover all of them.

    Returns:
        Every ``shares``-th point, beginning with one that changes from day to day; at least one.
    """
    chosen = settle()
    if chosen == ALL:
        return list(points)
    first = int(chosen) % min(shares, len(points) or 1)
    return list(points[first::shares])
