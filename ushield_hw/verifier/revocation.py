"""What CRLs say about the certificates of a path (RFC 5280 sections 5 and 6.3, in part).

What counts is a full CRL by the certificate's own issuer, signed with the very key that signed the certificate. What
does not count, so that the answer is "could not be checked": delta CRLs, CRLs by somebody else (indirect), for some
reasons only, or with a weak digest. That is less than pyhanko-certvalidator takes, on purpose: for a certificate of the
root it takes a CRL by any CA below the root, it takes CRLs signed with SHA-1, and it is slow with long CRLs.

A CRL that was issued after the certificate ran out proves nothing if the certificate is not on it, because expired ones
are dropped. What the CRLs say is judged at a moment in :mod:`ushield_hw.verifier.status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import InputError
from ushield_hw.verifier.status import Finding, Status

# What cryptography raises for bytes that it cannot read has no common root of its own.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_WEAK: Final = frozenset({"md5", "sha1"})
_KNOWN_EXTENSIONS: Final = (x509.AuthorityKeyIdentifier, x509.CRLNumber, x509.IssuingDistributionPoint)


class RevocationList:
    """A CRL. Immutable.

    Raises:
        InputError: ``CRL_FILE_INVALID``: it is not a CRL in DER. ``place``: the file, or where else it came from.
    """

    def __init__(self, der: bytes, place: str) -> None:
        try:
            self._crl = x509.load_der_x509_crl(der)
            self.issuer = self._crl.issuer.public_bytes()
            self._extensions = self._crl.extensions
            self._this_update, self._next_update = self._crl.last_update_utc, self._crl.next_update_utc
        except _UNREADABLE as broken:
            raise InputError("CRL_FILE_INVALID", file=place, problem="trust_no_crl") from broken
        self._counts = self._has_strong_digest() and self._has_known_extensions()

    def finding(self, certificate: CertificateFacts, issuer: CertificateFacts) -> Finding | None:
        """Return what the CRL says about a certificate of its issuer's, or None if it does not count for it."""
        if self._next_update is None or not self._counts or not self._covers(certificate) or not self._is_by(issuer):
            return None
        entry = self._crl.get_revoked_certificate_by_serial_number(certificate.serial)
        if entry is not None:
            return Finding(self._this_update, self._next_update, entry.revocation_date_utc, _reason(entry))
        if self._this_update > certificate.not_after:
            return None
        return Finding(self._this_update, self._next_update, None, "")

    def _has_strong_digest(self) -> bool:
        try:
            digest = self._crl.signature_hash_algorithm
        except UnsupportedAlgorithm:
            return False
        return digest is None or digest.name not in _WEAK

    def _has_known_extensions(self) -> bool:
        """Tell whether nothing is asked of the reader that it cannot do, and this is no delta CRL."""
        return not any(
            isinstance(one.value, x509.DeltaCRLIndicator)
            or (one.critical and not isinstance(one.value, _KNOWN_EXTENSIONS))
            for one in self._extensions
        )

    def _covers(self, certificate: CertificateFacts) -> bool:
        scope = next((e.value for e in self._extensions if isinstance(e.value, x509.IssuingDistributionPoint)), None)
        if scope is None:
            return True
        partial = scope.indirect_crl or scope.only_some_reasons or scope.only_contains_attribute_certs
        kind_left_out = scope.only_contains_user_certs if certificate.is_ca else scope.only_contains_ca_certs
        return not partial and not kind_left_out and _shares_a_name(scope, certificate)

    def _is_by(self, issuer: CertificateFacts) -> bool:
        if issuer.key_usage is not None and "cRLSign" not in issuer.key_usage:
            return False
        try:
            return self._crl.is_signature_valid(load_der_public_key(issuer.spki))  # type: ignore[arg-type]
        except _UNREADABLE:
            return False


def statuses(path: Sequence[CertificateFacts], crls: Iterable[RevocationList]) -> tuple[Status, ...]:
    """Return what ``crls`` say about each certificate of ``path`` but the trusted CA's, which nobody revokes.

    Args:
        path: the signer's certificate first, the trusted CA's last. A trusted signer is its own issuer.
        crls: all there are.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``: the name of a CA cannot be read.
    """
    known = list(crls)
    pairs = list(pairwise(path)) or [(path[0], path[0])]
    return tuple(_status(certificate, issuer, known, certificate is path[0]) for certificate, issuer in pairs)


def _status(
    certificate: CertificateFacts, issuer: CertificateFacts, crls: list[RevocationList], is_signer: bool
) -> Status:
    by_issuer = [crl for crl in crls if crl.issuer == issuer.subject]
    findings = [found for crl in by_issuer if (found := crl.finding(certificate, issuer)) is not None]
    findings.sort(key=lambda finding: finding.this_update, reverse=True)
    return Status(
        certificate.serial_hex,
        certificate.issuer_text(),
        is_signer,
        tuple(findings),
        refused=len(by_issuer) > len(findings),
    )


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        return str(entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value)
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return "unspecified"


def _shares_a_name(scope: x509.IssuingDistributionPoint, certificate: CertificateFacts) -> bool:
    """Tell whether a CRL that is one part of several is the part this certificate belongs to."""
    if scope.full_name is None and scope.relative_name is None:
        return True
    try:
        extensions = x509.load_der_x509_certificate(certificate.der).extensions
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return False
    wanted = set(scope.full_name or ())
    return any(name in wanted for point in points for name in point.full_name or ())
