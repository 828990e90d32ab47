"""The capabilities of a token's display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WIDEST: Final = 2
"""The maximum width of one character, in columns."""


@dataclass(frozen=True, slots=True)
class DisplayProfile:
    """The display of a token, as described by its driver.

    Args:
        format: The message format that the token parses.
        max_text: The longest value that it can show, in code points; None: no limit.
        columns: The width of a row in narrow characters, at least two; None: unlimited.
        rows: The number of rows of a screen; None: unlimited.
    """

    format: str = "jcs"
    max_text: int | None = None
    columns: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if (self.columns is not None and self.columns < WIDEST) or (self.rows is not None and self.rows < 1):
            raise ValueError("a display needs two columns and one row at least")
