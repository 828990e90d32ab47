"""The CA's tables: customers, one-time codes, certificates, renewal documents, CRLs."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, String, Table, Text

from ushield_hw.bank.database import METADATA, Moment

_STATES: Final = ("reserved", "issued", "active", "superseded", "revoked")
_LISTED: Final = ", ".join(f"'{state}'" for state in _STATES)


def _device() -> list[Column[Any]]:
    """Return the columns for what was registered about the token at enrolment."""
    return [
        Column("profile", String(16), nullable=False),
        Column("confirmation", String(8), nullable=False),
        Column("display", Boolean, nullable=False),
        Column("token_serial", String(64)),
    ]


CUSTOMERS: Final = Table(
    "customers",
    METADATA,
    Column("id", String(35), primary_key=True),
    Column("created", Moment, nullable=False),
)

CODES: Final = Table(
    "enrolment_codes",
    METADATA,
    Column("digest", String(64), primary_key=True),  # the code itself is not stored
    Column("customer", ForeignKey("customers.id"), nullable=False),
    Column("subject", Text, nullable=False),
    *_device(),
    Column("certificate_days", Integer),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("used", Moment),
    Column("serial", ForeignKey("certificates.serial"), unique=True),
)

# Wrong codes by customer number, known or not; rows are deleted when their window is over.
FAILURES: Final = Table(
    "code_failures",
    METADATA,
    Column("customer", String(64), primary_key=True),  # SHA-256 of the customer number as sent
    Column("wrong", Integer, nullable=False),
    Column("since", Moment, nullable=False),
)

CERTIFICATES: Final = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),  # lower-case hex without leading zeros
    # SHA-256 of the key; if the policy allows renewal for the same key, followed by the serial number of the replaced
    # certificate. The unique constraint guarantees one certificate per request.
    Column("request_key", String(105), nullable=False, unique=True),
    Column("spki_sha256", String(64), nullable=False, index=True),
    Column("spki", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("customer", ForeignKey("customers.id"), nullable=False, index=True),
    *_device(),
    Column("state", String(10), nullable=False),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("created", Moment, nullable=False),
    Column("activated", Moment),
    Column("superseded", Moment),
    Column("revoked", Moment),
    Column("reason", String(24)),
    Column("replaces", ForeignKey("certificates.serial"), index=True),
    Column("request", LargeBinary, nullable=False),  # evidence: PKCS#10, or the CMS by the old key that contains it
    Column("der", LargeBinary),
    Column("sha256", String(64), unique=True),
    CheckConstraint(f"state IN ({_LISTED})", name="state"),
    CheckConstraint("(der IS NULL) = (sha256 IS NULL)", name="der"),
    Index("ix_certificates_state_not_after", "state", "not_after"),
)

DOCUMENTS: Final = Table(
    "renewal_documents",
    METADATA,
    Column("tx_id", String(36), primary_key=True),
    Column("serial", ForeignKey("certificates.serial"), nullable=False, index=True),
    Column("canonical", LargeBinary, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("signed", LargeBinary),  # the CMS that activated the certificate
)

REGISTER: Final = Table(
    "register",
    METADATA,
    Column("id", Integer, CheckConstraint("id = 1", name="one"), primary_key=True),
    Column("crl_number", Integer, nullable=False),
    Column("revocations", Integer, nullable=False),  # number of revocations: a CRL with a lower value is outdated
)

CRLS: Final = Table(
    "crls",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("revocations", Integer, nullable=False),
    Column("next_update", Moment, nullable=False),
    Column("der", LargeBinary),
)
