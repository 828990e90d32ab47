"""Revoked or not, at a moment: the verdict on what CRLs say.

The moment may lie in the past: a certificate that was revoked later was good then. A CRL may be younger than that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ushield_hw.errors import Revoked, VerificationError


@dataclass(frozen=True, slots=True)
class Finding:
    """What one CRL says about one certificate.

    Attributes:
        this_update: when the CRL was issued.
        next_update: until when it holds.
        revoked: when the certificate was revoked, or None.
        reason: why, named as in RFC 5280 (``keyCompromise``); ``unspecified`` if the CRL does not say.
    """

    this_update: datetime
    next_update: datetime
    revoked: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """What all CRLs together say about one certificate of a path, whatever the moment.

    Attributes:
        serial: the certificate's serial number, lower-case hex.
        issuer: its issuer, as RFC 4514 writes it.
        is_signer: the signer's own, not a CA's.
        findings: what the CRLs that count say, the youngest first.
        refused: there are CRLs by the issuer that do not count.
    """

    serial: str
    issuer: str
    is_signer: bool
    findings: tuple[Finding, ...]
    refused: bool


def judge(found: Iterable[Status], moment: datetime) -> None:
    """Decide at ``moment``.

    Raises:
        Revoked: ``.at``: when (RFC 3339), ``.reason``: why, ``.serial`` of the certificate.
        VerificationError: ``REVOCATION_UNKNOWN``: for one of the certificates no CRL counts.
    """
    for status in found:
        usable = [finding for finding in status.findings if moment <= finding.next_update]
        if not usable:
            raise _unknown(status)
        youngest = usable[0]
        if youngest.revoked is not None and youngest.revoked <= moment:
            raise Revoked(
                at=time_text(youngest.revoked),
                reason=youngest.reason,
                serial=status.serial,
                problem="revoked_signer" if status.is_signer else "revoked_ca",
            )


def time_text(moment: datetime) -> str:
    """Return the moment as RFC 3339 writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _unknown(status: Status) -> VerificationError:
    problem, details = "revocation_no_crl", {}
    if status.findings:
        problem, details = "revocation_stale", {"next_update": time_text(status.findings[0].next_update)}
    elif status.refused:
        problem = "revocation_unusable"
    return VerificationError(
        "REVOCATION_UNKNOWN", problem=problem, issuer=status.issuer, serial=status.serial, **details
    )
