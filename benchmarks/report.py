"""The table and the bars: for a terminal, as Markdown, and as a drawing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.drawing import svg
from benchmarks.rows import Better, Group, Row

_BAR: Final = 40
_WIDTHS: Final = (38, 29, 7, 16, 9)
_HEAD: Final = ("", "against", "ratio", "quartiles", "target")
_PACKAGES: Final = ("cryptography", "python-pkcs11", "PyKCS11", "pyHanko", "yubikey-manager")

_INTRO: Final = """\
# Benchmarks

Made by `make bench WRITE=1`; [drawing](benchmarks.svg) below. Only ratios are shown: what is compared ran in the same
rounds, in turn, each in a process of its own, so that a busy machine disturbed all alike. A ratio is taken within a
round; the table has the median of all rounds and their quartiles. The target is what the project wants to reach;
nothing fails on a number.

![Ratios as bars, with the targets](benchmarks.svg)
"""


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def machine(load_before: float) -> tuple[str, ...]:
    """Return the relevant facts about the machine, without anything that identifies it."""
    cores = os.cpu_count() or 0
    return (
        f"{cores} cores, {platform.machine()}, {platform.system()}; {load_before:.1f} processes ran before the start",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    )


def terminal(groups: Sequence[Group], facts: Iterable[str]) -> str:
    """Return the report for a terminal."""
    return "\n".join([*(line for group in groups for line in _group(group)), "", *facts])


def write(groups: Sequence[Group], facts: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """Write ``benchmarks.md`` and ``benchmarks.svg``; return their paths."""
    text, drawing = folder / "benchmarks.md", folder / "benchmarks.svg"
    text.write_text(markdown(groups, facts), encoding="utf-8")
    drawing.write_text(svg(groups), encoding="utf-8")
    return text, drawing


def markdown(groups: Sequence[Group], facts: Iterable[str]) -> str:
    """Return the report as Markdown."""
    parts = [_INTRO]
    for group in groups:
        kind = "time ratio" if group.rows[0].better is Better.LOWER else "speed ratio"
        head = [f"## {group.title}", "", group.note, "", f"| | against | {kind} | quartiles | target |"]
        parts += [*head, "|---|---|---:|---:|---:|", *(f"| {' | '.join(cells(row))} |" for row in group.rows), ""]
    parts += ["## Machine", "", *(f"- {fact}" for fact in facts), "- Command: `make bench WRITE=1`"]
    return "\n".join(parts) + "\n"


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Return the table cells of a row."""
    return row.what, row.against, str(row.ratio), row.ratio.quartiles, _target(row)


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'≥' if row.better is Better.HIGHER else '≤'} {row.target:g} {'✓' if row.reached else '✗'}"


def _group(group: Group) -> Iterator[str]:
    yield f"\n{group.title}. {group.note}"
    yield _line(_HEAD)
    yield from (_line(cells(row)) for row in group.rows)
    widest = group.scale
    yield ""
    yield from (f"{row.what:<{_WIDTHS[0]}} {_bar(row, widest)} {row.ratio}" for row in group.rows)


def _line(texts: Sequence[str]) -> str:
    first, second, *rest = texts
    numbers = " ".join(f"{text:>{width}}" for text, width in zip(rest, _WIDTHS[2:], strict=True))
    return f"{first:<{_WIDTHS[0]}} {second:<{_WIDTHS[1]}} {numbers}".rstrip()


def _bar(row: Row, widest: float) -> str:
    """Draw a bar, with ┃ where the target is."""
    filled = round(row.ratio.median / widest * _BAR)
    bar = [("█" if row.ours else "▒") if place < filled else "·" for place in range(_BAR)]
    if row.target is not None:
        bar[min(_BAR - 1, round(row.target / widest * _BAR))] = "┃"
    return "".join(bar)
