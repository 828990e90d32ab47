"""Decide from CRL findings whether certificates are revoked at a point in time.

The point in time may be in the past: a certificate that was revoked later was good then. A CRL may be newer than that,
but must not be issued in the future.
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
    """What one CRL states about one certificate.

    Attributes:
        this_update: when the CRL was issued.
        next_update: until when the CRL is valid.
        revoked: when the certificate was revoked, or None.
        reason: the reason, named as in RFC 5280 (``keyCompromise``); ``unspecified`` if the CRL has none.
        covers: the reasons (bit n as ``1 << n``) for which absence from the CRL proves that the certificate is not
            revoked.
        not_before: start of the validity of the path to the CRL's key.
        not_after: end of that validity.
        through: revocation status of the certificates of that path.
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
        """Return whether the CRL may be used for ``moment``."""
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
        """Whether the CRL does not cover all reasons."""
        return self.covers != _ALL_REASONS


@dataclass(frozen=True, slots=True)
class Status:
    """The findings of all CRLs about one certificate of a path, independent of the time.

    Attributes:
        serial: the certificate's serial number, lower-case hex.
        issuer: its issuer (RFC 4514).
        is_signer: whether it is the signer's certificate and not a CA's.
        findings: the findings of the applicable CRLs, the newest first.
        refused: whether there is a CRL with the issuer's name, applicable or not.
    """

    serial: str
    issuer: str
    is_signer: bool
    findings: tuple[Finding, ...]
    refused: bool


def judge(found: Iterable[Status], moment: datetime, now: datetime) -> None:
    """Check the revocation status at ``moment``.

    Args:
        found: the status of each certificate.
        moment: the time to check, timezone-aware.
        now: the current time; CRLs issued later are ignored.

    Raises:
        Revoked: a certificate is revoked; ``.at`` (RFC 3339), ``.reason``, ``.serial``.
        VerificationError: ``REVOCATION_UNKNOWN``: the applicable CRLs do not cover a certificate completely.
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
    """Return whether a newer CRL cancels a revocation.

    Of complete CRLs the newest counts. An entry on a partial CRL stays in force unless it was a hold that was lifted.
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
    """Return the time in RFC 3339 format."""
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
