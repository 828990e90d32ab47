"""The text form of times in orders."""

from __future__ import annotations

from datetime import UTC, datetime


def time_text(moment: datetime) -> str:
    """Return a time in the form used in orders, truncated to seconds.

    Args:
        moment: A timezone-aware time.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
