"""Revoked or not, at a moment: the verdict on what CRLs say.

The moment may lie in the past: a certificate that was revoked later was good then. A CRL may be younger than that, but
not from the future.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ushield_hw.errors import Revoked, VerificationError

_ALL_REASONS: Final = 0x1FE
_HOLD: Final = "certificateHold"
_REMOVED: Final = "removeFromCRL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one CRL says about one certificate.

    Attributes:
        this_update: when the CRL was issued.
        next_update: until when it holds.
        revoked: when the certificate was revoked, or None.
        reason: why, named as in RFC 5280 (``keyCompromise``); ``unspecified`` if the CRL does not say.
        covers: the reasons (bit n as ``1 << n``) for which a certificate that is not on the CRL is not revoked.
        not_before: from when on the path holds that leads to the key of the CRL; ``not_after``: until when.
        through: what CRLs say about the certificates of that path.
    """

    this_update: datetime
    next_update: datetime
    revoked: datetime | None
    reason: str
    covers: int
    not_before: datetime
    not_after: datetime
    through: tuple[Status, ...] = ()

    def counts(self, moment: datetime, now: datetime) -> bool:
        """Tell whether the CRL can be used for a moment."""
        is_fresh = self.this_update <= max(moment, now) and moment <= self.next_update
        return is_fresh and self.not_before <= moment <= self.not_after and self._key_is_good(moment, now)

    def _key_is_good(self, moment: datetime, now: datetime) -> bool:
        try:
            judge(self.through, moment, now)
        except VerificationError:
            return False
        return True

    @property
    def is_partial(self) -> bool:
        """Whether the CRL leaves something out."""
        return self.covers != _ALL_REASONS


@dataclass(frozen=True, slots=True)
class Status:
    """What all CRLs together say about one certificate of a path, whatever the moment.

    Attributes:
        serial: the certificate's serial number, lower-case hex.
        issuer: its issuer, as RFC 4514 writes it.
        is_signer: the signer's own, not a CA's.
        findings: what the CRLs that count say, the youngest first.
        refused: there are CRLs by the issuer.
    """

    serial: str
    issuer: str
    is_signer: bool
    findings: tuple[Finding, ...]
    refused: bool


def judge(found: Iterable[Status], moment: datetime, now: datetime) -> None:
    """Decide at ``moment``.

    Args:
        found: what the CRLs say.
        moment: aware.
        now: what the clock says: no CRL can be younger.

    Raises:
        Revoked: ``.at``: when (RFC 3339), ``.reason``: why, ``.serial`` of the certificate.
        VerificationError: ``REVOCATION_UNKNOWN``: for one of the certificates the CRLs that count do not say enough.
    """
    for status in found:
        usable = [finding for finding in status.findings if finding.counts(moment, now)]
        for n, finding in enumerate(usable):
            if finding.revoked is None or finding.reason == _REMOVED or finding.revoked > moment:
                continue
            if not _is_over(finding, usable[:n]):
                raise Revoked(
                    at=time_text(finding.revoked),
                    reason=finding.reason,
                    serial=status.serial,
                    problem="revoked_signer" if status.is_signer else "revoked_ca",
                )
        if _covered(usable) != _ALL_REASONS:
            raise _unknown(status, usable, moment, now)


def _is_over(finding: Finding, younger: Sequence[Finding]) -> bool:
    """Tell whether a younger CRL takes a revocation back.

    Of full CRLs the youngest counts. What stands on a partial one stands, unless it was a hold, and that was lifted.
    """
    if finding.reason != _HOLD and finding.is_partial:
        return False
    return any(
        (one.reason == _REMOVED and finding.reason == _HOLD) or (one.revoked is None and not one.is_partial)
        for one in younger
        if one.this_update > finding.this_update
    )


def _covered(usable: Sequence[Finding]) -> int:
    covered = 0
    for finding in usable:
        covered |= finding.covers
    return covered


def time_text(moment: datetime) -> str:
    """Return the moment as RFC 3339 writes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _unknown(status: Status, usable: Sequence[Finding], moment: datetime, now: datetime) -> VerificationError:
    problem, details = "revocation_no_crl", {}
    if usable:
        problem = "revocation_partial"
    elif status.findings:
        newest = status.findings[0]
        problem, details = "revocation_stale", {"next_update": time_text(newest.next_update)}
        if newest.this_update > max(moment, now):
            problem, details = "revocation_future", {"this_update": time_text(newest.this_update)}
    elif status.refused:
        problem = "revocation_unusable"
    return VerificationError(
        "REVOCATION_UNKNOWN", problem=problem, issuer=status.issuer, serial=status.serial, **details
    )
