"""Writes the lists of docs/verifier.md: ``python -m tests.suites.table``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.suites.explained import LIMBO_LAXER, PKITS_STRICTER, Reasons

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "verifier.md"
_BEGIN: Final = "<!-- the lists: python -m tests.suites.table -->\n"


def lists() -> str:
    """Return the lists as Markdown."""
    parts = [
        "### x509-limbo: accepted, though the suite expects a refusal",
        _rows(LIMBO_LAXER),
        "### PKITS: refused, though the suite expects acceptance",
        _rows(PKITS_STRICTER),
    ]
    return _BEGIN + "\n" + "\n\n".join(parts) + "\n"


def _rows(reasons: Reasons) -> str:
    rows = ["| why | cases |", "|---|---|"]
    rows += [f"| {why} | {', '.join(f'`{case}`' for case in cases)} |" for why, cases in reasons.items()]
    return "\n".join(rows)


def written() -> str:
    """Return the page with the current lists."""
    return FILE.read_text().partition(_BEGIN)[0] + lists()


if __name__ == "__main__":
    FILE.write_text(written())
