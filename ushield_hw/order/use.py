"""The use of an order's signing key."""

from __future__ import annotations

from enum import Enum


class KeyUse(Enum):
    """The key usage that the certificate of the signing key must have; for renewals, one of two."""

    PAYMENT = "nonRepudiation"
    LOGIN = "digitalSignature"
    RENEWAL = "nonRepudiation | digitalSignature"

    @property
    def usages(self) -> frozenset[str]:
        """The key usages (RFC 5280 section 4.2.1.3), any of which is sufficient."""
        return frozenset(self.value.split(" | "))
