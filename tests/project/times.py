"""Print what each folder of tests takes: ``make test JUNIT=times.xml``, ``python -m tests.project.times times.xml``.

Prints rows of a Markdown table: folder, number of tests, seconds of all of them together (two run at a time on two
cores), and the slowest test.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from xml.etree import ElementTree

_DEPTH = 2  # tests/unit, tests/cli …
_FEWEST_S = 5.0


def rows(file: str) -> list[str]:
    """Return the rows of the table, the most expensive folder first.

    Args:
        file: the JUnit XML file of a run.
    """
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for case in ElementTree.parse(file).getroot().iter("testcase"):  # noqa: S314 - written by pytest
        place = (case.get("classname") or "").split(".")
        depth = _DEPTH + (place[1] == "stack" and len(place) > _DEPTH + 1)
        found["/".join(place[:depth])].append((float(case.get("time") or 0), f"{place[-1]}::{case.get('name')}"))
    table = sorted(found.items(), key=lambda row: -sum(seconds for seconds, _ in row[1]))
    made = []
    for folder, cases in table:
        slowest, name = max(cases)
        shown = f"{slowest:.0f} s `{name.split('[')[0].split('::')[-1]}`" if slowest >= _FEWEST_S else ""
        made.append(f"| `{folder}` | {len(cases):,} | {sum(seconds for seconds, _ in cases):,.0f} | {shown} |")
    return made


if __name__ == "__main__":
    print("\n".join(rows(sys.argv[1])))
