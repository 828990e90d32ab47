"""``python -m benchmarks [--write]``: run everything and print it; with ``--write`` store it in ``docs/``.

``--side-by-side`` compares the tools' messages instead of speed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report, side_by_side
from benchmarks.groups import GROUPS, Measure
from benchmarks.rows import Group
from benchmarks.stage import set_up


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="make bench", description="Compare speed with the peers.")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks.md and docs/benchmarks.svg")
    parser.add_argument("--side-by-side", action="store_true", help="compare what is said of broken set-ups instead")
    parser.add_argument(
        "--only", choices=[measure.__name__ for measure in GROUPS], help="measure one group, and write nothing"
    )
    asked = parser.parse_args()
    if asked.side_by_side:
        _compare_words(write=asked.write)
    else:
        _compare_speed(write=asked.write and asked.only is None, only=asked.only)


def _compare_words(*, write: bool) -> None:
    text = side_by_side.everything()
    print(text)
    if write:
        Path("docs", "side-by-side.md").write_text(text, encoding="utf-8")


def _compare_speed(*, write: bool, only: str | None) -> None:
    started, before = time.monotonic(), report.load()
    with tempfile.TemporaryDirectory(prefix="run-", dir=sys.prefix) as folder:  # next to the checkout: on a disk
        groups = _run(Path(folder), [measure for measure in GROUPS if only in {None, measure.__name__}])
    facts = report.machine(before)
    print(report.terminal(groups, facts))
    print(f"\n{time.monotonic() - started:.0f} s")
    if write:
        for file in report.write(groups, facts, Path("docs")):
            print(file)


def _run(folder: Path, measures: Sequence[Measure]) -> list[Group]:
    stage = set_up(folder)
    groups = []
    for number, measure in enumerate(measures, start=1):
        print(f"bench: {number}/{len(measures)} {measure.__name__.replace('_', ' ')}", file=sys.stderr)
        groups.append(measure(stage))
    return groups


if __name__ == "__main__":
    main()
