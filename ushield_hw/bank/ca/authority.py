"""Issue the CA's certificate, customer certificates and CRLs with the CA key (RFC 5280)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ushield_hw.bank.ca.profiles import Profile, key_usage
from ushield_hw.crypto.algorithms import Suite
from ushield_hw.crypto.private_key import CertifiedKey, builder_arguments, token_private_key
from ushield_hw.errors import CertificateError

# allows for clock differences: a new certificate is valid at once on a customer's machine
_EARLIER: Final = timedelta(minutes=5)
_REASONS: Final = {flag.value: flag for flag in x509.ReasonFlags}


class Signer(Protocol):
    """A signing key. The bank's keys are passed in through this protocol, whether they are on a token or not."""

    @property
    def public(self) -> CertifiedKey:
        """The public key."""
        ...

    @property
    def suite(self) -> Suite:
        """The signature algorithm."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message. Thread-safe.

        Args:
            message: the complete message, not a digest.

        Returns:
            The signature; for ECDSA r and s concatenated.

        Raises:
            UShieldError: signing failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """The content of a certificate to issue. Equal values give equal to-be-signed bytes."""

    serial: int
    name: x509.Name
    spki: bytes
    profile: Profile
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a CRL; ``reason`` is named as in RFC 5280."""

    serial: int
    revoked: datetime
    reason: str


class Authority:
    """A CA.

    Args:
        certificate: its own certificate, DER.
        signer: its key.
        crl_url: the URL of its CRL, which is included in the certificates it issues.

    Raises:
        CertificateError: ``BANK_KEY_MISMATCH``: the key does not belong to the certificate. Also raised by each method
            if the certificate does not verify a new signature.
        UShieldError: the signer failed; also raised by each method.
    """

    def __init__(self, certificate: bytes, signer: Signer, crl_url: str | None = None) -> None:
        self._own = x509.load_der_x509_certificate(certificate)
        self._signer = signer
        self._crl_url = crl_url
        self.certificate = certificate
        self._check_key()

    def _check_key(self) -> None:
        """Sign once with the key, because the public key reported by the signer may come from the certificate."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(self._own.subject)
        genuine = builder.sign(**_with(self._signer)).is_signature_valid
        if not genuine or _spki(self._signer.public) != _spki(self._own.public_key()):
            raise CertificateError("BANK_KEY_MISMATCH")

    def validity(self, now: datetime, life: timedelta) -> tuple[datetime, datetime]:
        """Return the validity period of a certificate issued now, which never exceeds the CA's own.

        Args:
            now: the current time.
            life: the wanted period.
        """
        begin = max(now - _EARLIER, self._own.not_valid_before_utc)
        return begin.replace(microsecond=0), min(now + life, self._own.not_valid_after_utc).replace(microsecond=0)

    def issue(self, wanted: Wanted) -> bytes:
        """Issue a certificate.

        Args:
            wanted: the content of the certificate.

        Returns:
            The certificate, DER.

        Raises:
            CertificateError: ``BANK_KEY_MISMATCH``.
            UShieldError: the signer failed.
        """
        key: Any = load_der_public_key(wanted.spki)
        builder = (
            x509.CertificateBuilder(self._own.subject, wanted.name, key, wanted.serial)
            .not_valid_before(wanted.not_before)
            .not_valid_after(wanted.not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(wanted.profile.usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_identifier(self._signer.public), critical=False)
        )
        if self._crl_url:
            place = x509.DistributionPoint([x509.UniformResourceIdentifier(self._crl_url)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([place]), critical=False)
        issued: x509.Certificate = builder.sign(**_with(self._signer))
        try:  # never release a signature of a replaced key or a faulty token
            issued.verify_directly_issued_by(self._own)
        except InvalidSignature as error:
            raise CertificateError("BANK_KEY_MISMATCH") from error
        return issued.public_bytes(Encoding.DER)

    def crl(self, number: int, this_update: datetime, next_update: datetime, entries: Iterable[Entry]) -> bytes:
        """Issue a CRL.

        Args:
            number: the CRL number.
            this_update: when it is issued.
            next_update: until when it is valid.
            entries: the revoked certificates.

        Returns:
            The CRL, DER.

        Raises:
            CertificateError: ``BANK_KEY_MISMATCH``.
            UShieldError: the signer failed.
        """
        builder = (
            x509.CertificateRevocationListBuilder(self._own.subject, this_update, next_update)
            .add_extension(_identifier(self._signer.public), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for entry in entries:
            builder = builder.add_revoked_certificate(_revoked(entry))
        signed = builder.sign(**_with(self._signer))
        if not signed.is_signature_valid(self._signer.public):
            raise CertificateError("BANK_KEY_MISMATCH")
        return signed.public_bytes(Encoding.DER)


def root(signer: Signer, name: x509.Name, now: datetime, life: timedelta) -> bytes:
    """Issue the self-signed certificate of a new CA.

    Args:
        signer: the CA key.
        name: the CA's name.
        now: the current time.
        life: the validity period.

    Returns:
        The certificate, DER.

    Raises:
        UShieldError: the signer failed.
    """
    moment = now.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder(name, name, signer.public, x509.random_serial_number())
        .not_valid_before(moment - _EARLIER)
        .not_valid_after(moment + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(signer.public), critical=False)
        .add_extension(_identifier(signer.public), critical=False)
    )
    return builder.sign(**_with(signer)).public_bytes(Encoding.DER)


def _with(signer: Signer) -> dict[str, Any]:
    key = token_private_key(signer.public, signer.suite, signer.sign)
    return {"private_key": key, **builder_arguments(signer.suite)}


def _identifier(public: CertifiedKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)


def _revoked(entry: Entry) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(entry.serial, entry.revoked.replace(microsecond=0))
    if entry.reason != "unspecified":  # RFC 5280 section 5.3.1: for this reason the extension should be absent
        builder = builder.add_extension(x509.CRLReason(_REASONS[entry.reason]), critical=False)
    return builder.build()


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
