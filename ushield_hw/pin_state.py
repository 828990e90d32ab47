"""What is known of a PIN: attempts remaining, lengths, and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class CountSource(Enum):
    """Where the number of tries left comes from."""

    EXACT = "exact"  # the token says the number
    FLAGS = "flags"  # the standard's flags: low, final, locked
    POLICY = "policy"  # counted on this host, for tokens that never lock
    NONE = "none"  # the token does not say


@dataclass(frozen=True, slots=True)
class PinState:
    """What is known of a PIN. ``None`` means that the token does not say; no number is ever guessed.

    Attributes:
        retries_left: tries left, where known.
        source: where that comes from.
        locked: no try is left.
        final_try: exactly one try is left.
        low: at least one try has failed since the last success.
        min_length: shortest PIN in bytes.
        max_length: longest PIN in bytes.
        changed_at: when it was last changed (RFC 3339, UTC), where known.
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
        """Return the object that `--json` prints of a PIN."""
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
