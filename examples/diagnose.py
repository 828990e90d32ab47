"""Say why a token is not recognized, or that it can sign. Nothing is changed and no PIN attempt is spent.

python diagnose.py [SERIAL]
"""

from __future__ import annotations

import sys

import ushield_hw as us


def main(selector: str | None = None) -> int:
    report = us.doctor.examine(selector)
    for token in report.usable:
        print(f"can sign: {token.uri}")
    if report.first is not None:
        print(f"[{report.first.id}] {report.first.cause()}\n  {report.first.remedy()}")
    return int(report.outcome)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
