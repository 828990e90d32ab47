"""From the signer's certificate to a trusted CA: the one file that speaks to pyhanko-certvalidator.

Imported when the first certificate is judged, because what it pulls in is slow to load. What it is used for is path
validation (RFC 5280 section 6.1); revocation is judged next door, see :mod:`ushield_hw.verifier.revocation`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from asn1crypto import core, x509
from cryptography.x509 import load_der_x509_certificate
from pyhanko_certvalidator import CertificateValidator, PKIXValidationParams, ValidationContext
from pyhanko_certvalidator.authority import CertTrustAnchor, TrustQualifiers, derive_quals_from_cert
from pyhanko_certvalidator.errors import (
    DisallowedAlgorithmError,
    ExpiredError,
    InvalidCertificateError,
    NotYetValidError,
    PathBuildingError,
)
from pyhanko_certvalidator.path import ValidationPath
from pyhanko_certvalidator.policy_decl import NO_REVOCATION, CertRevTrustPolicy
from pyhanko_certvalidator.registry import SimpleTrustManager

from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import UntrustedSigner, VerificationError

T = TypeVar("T")

# Extensions that change who may use a certificate for what, and that nobody reads here: addresses and numbers of
# networks (RFC 3779), proxies (RFC 3820).
_NOT_FOR_PAYING: Final = frozenset({"1.3.6.1.5.5.7.1.7", "1.3.6.1.5.5.7.1.8", "1.3.6.1.5.5.7.1.14"})
# What may be critical. certvalidator lets pass others that a CA must never make so: identifiers of keys, addresses of
# services; openssl does not.
_MAY_BE_CRITICAL: Final = frozenset(f"2.5.29.{arc}" for arc in (15, 17, 19, 30, 31, 32, 33, 36, 37, 54))
_NETSCAPE_TYPE: Final = "2.16.840.1.113730.1.1"
_WEAK: Final = frozenset({"md2", "md5", "sha1"})


def build(
    signer: CertificateFacts, intermediates: Iterable[bytes], anchors: Iterable[CertificateFacts], moment: datetime
) -> tuple[CertificateFacts, ...]:
    """Return a path that holds at ``moment``: the signer's certificate first, the trusted CA's last.

    Refused are weak digests and short RSA keys, CAs out of their time, and paths that are longer or lead to other names
    than a CA's certificate allows; the trusted CA's certificate counts too. Nothing is fetched.

    Args:
        signer: the certificate to judge.
        intermediates: CA certificates that may be on the path, DER, the ones to try first in front.
        anchors: the trusted CAs.
        moment: aware.

    Raises:
        UntrustedSigner: ``.reason`` is ``unknown_ca``, ``expired`` or ``not_yet_valid`` (the signer's certificate),
            ``ca_expired``, ``ca_not_yet_valid``, ``weak_algorithm`` or ``path_invalid``; ``.note``: the library's text.
        VerificationError: ``VERIFICATION_IMPOSSIBLE``: the library does not do what it is used for; a bug.
    """
    try:
        context = _context(intermediates, anchors, moment)
        validator = CertificateValidator(_load(signer.der), validation_context=context)
        path = _facts(_finish(validator.async_validate_path()))
    except VerificationError:
        raise
    except Exception as failed:  # whatever a made-up certificate sets off in there, it is not trusted
        raise untrusted(_reason(failed, signer, moment), signer, note=str(failed)) from failed
    if path[0] != signer:  # a certificate that merely has a trusted CA's name and key
        raise untrusted("path_invalid", signer, note="not the certificate that was asked about")
    return path


def untrusted(reason: str, signer: CertificateFacts, **details: object) -> UntrustedSigner:
    """Return the error for a signer; ``reason`` is for programs and has a text of its own."""
    return UntrustedSigner(problem=f"signer_{reason}", reason=reason, serial=signer.serial_hex, **details)


def _context(
    intermediates: Iterable[bytes], anchors: Iterable[CertificateFacts], moment: datetime
) -> ValidationContext:
    # Of two certificates for one CA certvalidator keeps the first: that must not be the one that has run out.
    in_time_first = sorted(anchors, key=lambda anchor: not anchor.not_before <= moment <= anchor.not_after)
    trusted = [_anchor(_load(anchor.der)) for anchor in in_time_first]
    return ValidationContext(
        trust_manager=SimpleTrustManager.build(trust_roots=trusted),  # without one: whatever the system trusts
        other_certs=[_load(certificate) for certificate in intermediates],
        moment=moment,
        allow_fetching=False,
        revinfo_policy=CertRevTrustPolicy(NO_REVOCATION),
        weak_hash_algos=_WEAK,
        time_tolerance=timedelta(0),
    )


def _load(der: bytes) -> x509.Certificate:
    return x509.Certificate.load(der, strict=True)


def _anchor(certificate: x509.Certificate) -> CertTrustAnchor:
    """Return a trusted CA that is bound by its own certificate's dates, path length and names, as with openssl.

    certvalidator's own derivation would also demand the CA's policies, and it leaves out one of the two path lengths
    that it then counts down.
    """
    derived = derive_quals_from_cert(certificate)
    names = derived.standard_parameters
    limits = TrustQualifiers(
        standard_parameters=names
        and PKIXValidationParams(
            initial_permitted_subtrees=names.initial_permitted_subtrees,
            initial_excluded_subtrees=names.initial_excluded_subtrees,
        ),
        max_path_length=derived.max_path_length,
        max_aa_path_length=derived.max_path_length,
        valid_from=derived.valid_from,
        valid_until=derived.valid_until,
    )
    return CertTrustAnchor(certificate, limits)


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to its end a coroutine that has nothing to wait for: needs no event loop, and disturbs none that runs."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise VerificationError(note="path validation waits, although nothing may be fetched")


def _facts(path: ValidationPath) -> tuple[CertificateFacts, ...]:
    certificates = list(path.iter_certs(include_root=True))
    facts = tuple(CertificateFacts.read(certificate.dump()) for certificate in reversed(certificates))
    for seen, read in zip(reversed(certificates), facts, strict=True):
        if seen.public_key.dump() != read.spki:  # two readers of one certificate must not differ about its key
            raise ValueError("the certificate's key is not clear")
        if seen is not certificates[0] and seen.self_signed != "no":  # openssl ends its path there
            raise ValueError("below the trusted CA is a certificate that looks self-signed")
        _check_extensions(read.der)
    return facts


def _check_extensions(der: bytes) -> None:
    """Refuse a certificate with a damaged or wrongly critical extension, as openssl does: certvalidator reads few.

    Raises:
        ValueError: from cryptography, for those that it knows; from here, for what only openssl knows.
    """
    for extension in load_der_x509_certificate(der).extensions:
        name = extension.oid.dotted_string
        if name in _NOT_FOR_PAYING:
            raise ValueError(f"the certificate has the extension {name}")
        if extension.critical and name not in _MAY_BE_CRITICAL:
            raise ValueError(f"the extension {name} is critical")
        if name == _NETSCAPE_TYPE:
            _ = core.BitString.load(extension.value.public_bytes(), strict=True).native


def _reason(failed: Exception, signer: CertificateFacts, moment: datetime) -> str:
    if isinstance(failed, ExpiredError):
        return "expired" if signer.not_after < moment else "ca_expired"
    if isinstance(failed, NotYetValidError):
        return "not_yet_valid" if signer.not_before > moment else "ca_not_yet_valid"
    if isinstance(failed, (PathBuildingError, InvalidCertificateError)):  # the latter: self-signed, and not known
        return "unknown_ca"
    return "weak_algorithm" if isinstance(failed, DisallowedAlgorithmError) else "path_invalid"
