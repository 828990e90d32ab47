"""The table of docs/tokens.md: the abilities of each kind of token, as declared by the rows and verified by the tests.

``python -m tests.contract.table`` writes it between its two markers; ``make table`` runs that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.contract.subjects import Can, Kind
from tests.project.tree import ROOT
from ushield_hw.backend.interface import Isolation

PAGE: Final = ROOT / "docs" / "tokens.md"
BEGIN: Final = "<!-- table: made by make table from tests/contract/rows.py -->"
END: Final = "<!-- end of the table -->"
SHOWN: Final = tuple(one for one in Can if one is not Can.WRONG_PIN)  # only relevant for a physical token
_REACHED: Final = {Isolation.PROCESS: "in a worker", Isolation.IN_PROCESS: "in-process"}


class _Notes:
    """Footnotes; identical texts share one note."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self._texts:
            self._texts.append(text)
        return f"<sup>{self._texts.index(text) + 1}</sup>"

    def lines(self) -> list[str]:
        return [f"{number}. {text}" for number, text in enumerate(self._texts, start=1)]


def table(kinds: Sequence[Kind]) -> str:
    """Return the table in Markdown, with the reasons as notes below it."""
    notes = _Notes()
    lines = [_line("", [kind.title for kind in kinds]), _line("---", ["---"] * len(kinds))]
    for one in SHOWN:
        cells = (f"no{notes.mark(kind.cannot[one])}" if one in kind.cannot else "yes" for kind in kinds)
        lines.append(_line(one.value, cells))
    ways = [" and ".join(_REACHED[way] for way in kind.ways) for kind in kinds]
    marks = [notes.mark(kind.one_way) if kind.one_way else "" for kind in kinds]
    lines.append(_line("module runs", [way + mark for way, mark in zip(ways, marks, strict=True)]))
    return "\n".join([*lines, "", *notes.lines()])


def page_with(text: str, made: str) -> str:
    """Return the page with the table between its markers.

    Raises:
        ValueError: the page does not have each marker exactly once.
    """
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def _line(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _main(page: Path = PAGE) -> None:
    from tests.contract.rows import KINDS

    text = page.read_text(encoding="utf-8")
    wanted = page_with(text, table(KINDS))
    if wanted != text:
        page.write_text(wanted, encoding="utf-8")
        sys.stdout.write(f"{page}: written\n")


if __name__ == "__main__":
    _main()
