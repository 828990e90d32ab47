"""The known state of a PIN: attempts remaining, length limits, and the source of the count."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class CountSource(Enum):
    """Source of the number of attempts remaining."""

    EXACT = "exact"  # the token reports the number
    FLAGS = "flags"  # the standard's flags: low, final, locked
    POLICY = "policy"  # counted on this host, for tokens that never lock
    NONE = "none"  # the token does not report it


@dataclass(frozen=True, slots=True)
class PinState:
    """The known state of a PIN. ``None`` means that the token does not report the value; values are never guessed.

    Attributes:
        retries_left: attempts remaining, if known.
        source: source of that number.
        locked: no attempts remain.
        final_try: exactly one attempt remains.
        low: at least one attempt has failed since the last success.
        min_length: shortest PIN in bytes.
        max_length: longest PIN in bytes.
        changed_at: time of the last change (RFC 3339, UTC), if known.
    """

    retries_left: int | None = None
    source: CountSource = CountSource.NONE
    locked: bool | None = None
    final_try: bool | None = None
    low: bool | None = None
    min_length: int | None = None
    max_length: int | None = None
    changed_at: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the object that ``--json`` prints for a PIN."""
        return {
            "retries_left": self.retries_left,
            "source": self.source.value,
            "locked": self.locked,
            "final_try": self.final_try,
            "low": self.low,
            "min_length": self.min_length,
            "max_length": self.max_length,
            "changed_at": self.changed_at,
        }
