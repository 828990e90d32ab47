"""A temporary CA for test tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_HOUR: Final = timedelta(hours=1)


class Authority:
    """A root CA that issues certificates without checks. Its key exists only in this object.

    Args:
        name: the common name.
    """

    def __init__(self, name: str = "Test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        self.certificate = self._signed(
            self._builder(self._name, self._key.public_key(), timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )

    @property
    def pem(self) -> bytes:
        """Its own certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, subject: x509.Name, public: PublicKey, days: int = 90) -> x509.Certificate:
        """Issue a certificate for signing orders and logins.

        Args:
            subject: the subject.
            public: the public key.
            days: the validity period.
        """
        usage = _usage(digital_signature=True, content_commitment=True)
        return self._signed(
            self._builder(subject, public, timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )

    def certify(self, request_pem: bytes, days: int = 90) -> bytes:
        """Return the certificate for a PKCS#10 request, both in PEM.

        Args:
            request_pem: the request.
            days: the validity period.
        """
        request = x509.load_pem_x509_csr(request_pem)
        public = request.public_key()
        assert isinstance(public, PublicKey)  # noqa: S101 - tokens make no others
        return self.issue(request.subject, public, days).public_bytes(Encoding.PEM)

    def _builder(self, subject: x509.Name, public: PublicKey, life: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(self._name, subject, public, x509.random_serial_number())
            .not_valid_before(now - _HOUR)
            .not_valid_after(now + life)
            .add_extension(identifier, critical=False)
            .add_extension(authority, critical=False)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self._key, hashes.SHA256())


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


def person(name: str, organisation: str = "Demo Bank") -> x509.Name:
    """Return the subject name of a customer."""
    organisation_first = [(NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, name)]  # the order of X.500
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in organisation_first])
