"""What the key of an order is for."""

from __future__ import annotations

from enum import Enum


class KeyUse(Enum):
    """Which of a token's keys signs orders of a type: the key usage that its certificate must have, or one of two."""

    PAYMENT = "nonRepudiation"
    LOGIN = "digitalSignature"
    RENEWAL = "nonRepudiation | digitalSignature"

    @property
    def usages(self) -> frozenset[str]:
        """The key usages (RFC 5280 section 4.2.1.3), any of which will do."""
        return frozenset(self.value.split(" | "))
