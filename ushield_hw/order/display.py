"""What a token's display can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WIDEST: Final = 2
"""The most columns that one character needs."""


@dataclass(frozen=True, slots=True)
class DisplayProfile:
    """What a token's driver says of its display.

    Args:
        format: the message format that the token reads.
        max_text: the longest value it takes, in code points; None is no limit of its own.
        columns: narrow characters in a row, two at least; None where rows are as long as they need.
        rows: rows of a screen; None where everything is on one.
    """

    format: str = "jcs"
    max_text: int | None = None
    columns: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if (self.columns is not None and self.columns < WIDEST) or (self.rows is not None and self.rows < 1):
            raise ValueError("a display needs two columns and one row at least")
