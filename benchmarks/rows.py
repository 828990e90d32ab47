"""The report's rows: a ratio with its spread and its target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

Times = Mapping[str, list[float]]
"""Seconds for one piece of work, by contestant, round by round."""

_DIGITS: Final = ((0.01, 4), (0.1, 3))


class Better(Enum):
    """Whether higher or lower ratios are better."""

    HIGHER = "speed"  # our runs per second divided by the other's
    LOWER = "time"  # our seconds per run divided by the other's


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the ratios of all rounds, and their quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return number(self.median)

    @property
    def quartiles(self) -> str:
        """Both quartiles, for the table."""
        return f"{number(self.low)} to {number(self.high)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        what: what was measured.
        against: what it is compared with.
        ratio: the result.
        better: whether a higher or a lower ratio is better.
        target: the project's target; None for rows that serve as a comparison only.
        ours: whether it measures this project.
    """

    what: str
    against: str
    ratio: Spread
    better: Better = Better.HIGHER
    target: float | None = None
    ours: bool = True

    @property
    def reached(self) -> bool:
        """Whether the target, if there is one, is reached."""
        if self.target is None:
            return True
        higher = self.ratio.median >= self.target
        return higher if self.better is Better.HIGHER else self.ratio.median <= self.target


@dataclass(frozen=True, slots=True)
class Group:
    """Rows measured in the same rounds. ``note`` explains how to read them."""

    title: str
    note: str
    rows: tuple[Row, ...]

    @property
    def scale(self) -> float:
        """The ratio at the right end of the group's bars."""
        return 1.02 * max(1.0, *(max(row.ratio.high, row.target or 0) for row in self.rows))


def compare(times: Times, ours: str, other: str, better: Better = Better.HIGHER) -> Spread:
    """Return the ratio of two contestants, computed per round."""
    pairs = zip(times[ours], times[other], strict=True)
    ratios = [theirs / mine if better is Better.HIGHER else mine / theirs for mine, theirs in pairs]
    low, median, high = statistics.quantiles(ratios, n=4)
    return Spread(median, low, high)


def number(ratio: float) -> str:
    """Return a ratio with about two significant digits."""
    digits = next((digits for limit, digits in _DIGITS if ratio < limit), 2)
    return f"{ratio:.{digits}f}"
