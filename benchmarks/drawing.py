"""The bar chart as SVG: one file, no script, no embedded font.

The colours follow the reader's light or dark mode, and are readable in both where the viewer does not support it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.rows import Better, Group, Row

_WIDTH: Final = 760
_LEFT: Final = 280
_BAR: Final = 400
_ROW: Final = 24
_TITLE: Final = 40

_STYLE: Final = """\
<style>
  text { font: 13px system-ui, sans-serif; fill: #707a85; }
  .title { font-weight: 600; }
  .ours { fill: #3d7bd9; }
  .peer { fill: #8a94a0; }
  .whisker { stroke: #707a85; }
  .target { stroke: #d9533a; stroke-width: 2; }
  @media (prefers-color-scheme: light) { text { fill: #1f2328; } .whisker { stroke: #1f2328; } }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .whisker { stroke: #e6edf3; } }
</style>"""


def svg(groups: Sequence[Group]) -> str:
    """Return the drawing."""
    parts: list[str] = []
    top = 0
    for group in groups:
        parts += _group(group, top)
        top += _TITLE + _ROW * len(group.rows)
    parts.append(f'<text x="8" y="{top + 28}">Red: the target. Thin line: the quartiles.</text>')
    height = top + _TITLE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">'
    return "\n".join([head, "<title>Benchmarks: ratios, with targets</title>", _STYLE, *parts, "</svg>"]) + "\n"


def _group(group: Group, top: int) -> Iterator[str]:
    kind = "time, less is better" if group.rows[0].better is Better.LOWER else "speed, more is better"
    yield f'<text class="title" x="8" y="{top + 28}">{escape(group.title)}</text>'
    yield f'<text x="{_LEFT}" y="{top + 28}">{kind}</text>'
    step = _BAR / group.scale
    for place, row in enumerate(group.rows):
        yield from _row(row, top + _TITLE + _ROW * place, step)


def _row(row: Row, top: int, step: float) -> Iterator[str]:
    """Draw one bar; ``step``: pixels for a ratio of 1."""
    middle = top + 8
    end, low, high = (_LEFT + value * step for value in (row.ratio.median, row.ratio.low, row.ratio.high))
    yield f'<text x="{_LEFT - 8}" y="{top + 12}" text-anchor="end">{escape(row.what)}</text>'
    whose = "ours" if row.ours else "peer"
    yield f'<rect class="{whose}" x="{_LEFT}" y="{top}" width="{end - _LEFT:.1f}" height="16"/>'
    yield f'<line class="whisker" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>'
    if row.target is not None:
        at = _LEFT + row.target * step
        yield f'<line class="target" x1="{at:.1f}" y1="{top - 2}" x2="{at:.1f}" y2="{top + 18}"/>'
    yield f'<text x="{_LEFT + _BAR + 12}" y="{top + 12}">{row.ratio}</text>'
