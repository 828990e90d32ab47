"""Values that the command line, the server and the database of the bank share. Imports nothing."""

from __future__ import annotations

from typing import Final

PAYMENT: Final = "payment"
LOGIN: Final = "login"

PROFILES: Final = (PAYMENT, LOGIN)
"""Names of the certificate profiles (:mod:`ushield_hw.bank.ca.profiles`)."""

REASONS: Final = (
    *("keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn"),
    "unspecified",
)
"""Accepted reasons for revoking a customer's certificate: those of RFC 5280 that are permanent and not about a CA."""
