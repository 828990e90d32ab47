"""A test PKI: keys in memory, a CA that issues and revokes, and verification by openssl.

It checks nothing: it issues invalid certificates as well as valid ones.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from asn1crypto import algos, crl
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from ushield_hw.cms import Confirmation, Profile, Template
from ushield_hw.crypto.algorithms import KeyKind, Padding, Suite

Digest = type[hashes.SHA256] | type[hashes.SHA384]
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NOW = datetime(2026, 11, 24, 2, 1, tzinfo=UTC)
DAY = timedelta(days=1)

USES = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)


@cache
def key(kind: KeyKind = KeyKind.EC_P256, *, number: int = 0, bits: int = 2048) -> Key:
    """Return a key of a kind: the same one for the same ``number``."""
    del number
    if kind is KeyKind.RSA:
        return rsa.generate_private_key(65537, bits)
    return ec.generate_private_key(ec.SECP256R1() if kind is KeyKind.EC_P256 else ec.SECP384R1())


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def usage(names: Iterable[str]) -> x509.KeyUsage:
    """Return a key usage extension with these uses, named as in RFC 5280."""
    wanted = set(names)
    return x509.KeyUsage(*(name in wanted for name in USES))


@dataclass(frozen=True)
class Authority:
    """A CA: its key and its certificate."""

    key: Key
    certificate: x509.Certificate
    digest: Digest = hashes.SHA256

    @property
    def der(self) -> bytes:
        """The CA's certificate, DER."""
        return der(self.certificate)

    @property
    def pem(self) -> bytes:
        """The CA's certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(  # noqa: PLR0913 - a certificate has many fields
        self,
        subject: str,
        public_key: CertificatePublicKeyTypes,
        *,
        key_usage: Iterable[str] | None = ("nonRepudiation",),
        not_before: datetime = NOW - 300 * DAY,
        not_after: datetime = NOW + 700 * DAY,
        serial: int | None = None,
        ca: bool = False,
        path_length: int | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        digest: Digest | None = None,
    ) -> x509.Certificate:
        """Issue a certificate. ``subject`` as in RFC 4514; ``key_usage`` None omits the extension."""
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self.certificate.subject)
            .subject_name(x509.Name.from_rfc4514_string(subject))
            .public_key(public_key)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .serial_number(serial if serial is not None else x509.random_serial_number())
        )
        if key_usage is not None:
            builder = builder.add_extension(usage(key_usage), critical=True)
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        again_the_same = (
            True if isinstance(self.key, ec.EllipticCurvePrivateKey) else None
        )  # stored fuzzing inputs contain it
        return builder.sign(self.key, (digest or self.digest)(), ecdsa_deterministic=again_the_same)

    def subordinate(self, subject: str, *, number: int, **options: object) -> Authority:
        """Return a CA issued by this one; ``options`` are those of :meth:`issue`."""
        own = key(number=number)
        issued = self.issue(
            subject,
            own.public_key(),
            **{"key_usage": ("keyCertSign", "cRLSign"), "ca": True, "not_after": NOW + 3000 * DAY, **options},  # type: ignore[arg-type]
        )
        return Authority(own, issued)

    def crl(
        self,
        revoked: Mapping[int, datetime] | None = None,
        *,
        this_update: datetime = NOW - DAY,
        next_update: datetime = NOW + DAY,
        reason: x509.ReasonFlags | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        digest: Digest | None = None,
    ) -> bytes:
        """Issue a CRL (DER): the serial numbers with their revocation dates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(this_update)
            .next_update(next_update)
        )
        for serial, moment in (revoked or {}).items():
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, (digest or self.digest)()).public_bytes(Encoding.DER)


def authority(
    subject: str = "CN=Demo Root,O=Demo Bank",
    *,
    number: int = 100,
    kind: KeyKind = KeyKind.EC_P256,
    bits: int = 2048,
    key_usage: Iterable[str] | None = ("keyCertSign", "cRLSign"),
    **options: object,
) -> Authority:
    """Return a root CA; ``options`` are those of :meth:`Authority.issue`."""
    own = key(kind, number=number, bits=bits)
    name = x509.Name.from_rfc4514_string(subject)
    unsigned = x509.CertificateBuilder().issuer_name(name).subject_name(name).public_key(own.public_key())
    shell = unsigned.not_valid_before(NOW).not_valid_after(NOW).serial_number(1).sign(own, hashes.SHA256())
    maker = Authority(own, shell)
    settings = {"ca": True, "not_before": NOW - 1000 * DAY, "not_after": NOW + 4000 * DAY, **options}
    return Authority(own, maker.issue(subject, own.public_key(), key_usage=key_usage, **settings))  # type: ignore[arg-type]


def signed_with_sha1(signed: bytes, structure: type[asn1_x509.Certificate | crl.CertificateList], own: Key) -> bytes:
    """Return the certificate or CRL signed again with SHA-1, which cryptography no longer supports."""
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    changed = structure.load(signed)
    inside = changed["tbs_certificate" if structure is asn1_x509.Certificate else "tbs_cert_list"]
    inside["signature"] = changed["signature_algorithm"] = algos.SignedDigestAlgorithm({"algorithm": "sha1_ecdsa"})
    changed["signature" if structure is crl.CertificateList else "signature_value"] = own.sign(
        inside.dump(force=True),
        ec.ECDSA(hashes.SHA1()),  # noqa: S303 - what must be refused
    )
    return bytes(changed.dump(force=True))


def signed_again(certificate: bytes, old: bytes, new: bytes, own: Key) -> bytes:
    """Return the certificate with ``old`` replaced by ``new`` (same length), signed again by the CA's key ``own``."""
    assert len(old) == len(new)
    changed = asn1_x509.Certificate.load(certificate.replace(old, new))
    changed["signature_value"] = sign_der(own, changed["tbs_certificate"].dump())
    return bytes(changed.dump())


def of_version_1(certificate: bytes, own: Key) -> bytes:
    """Return a certificate without extensions as version 1, correctly signed by the CA's key ``own``."""
    changed = asn1_x509.Certificate.load(certificate)
    inside = changed["tbs_certificate"]
    inside["version"] = "v1"
    inside["extensions"] = None
    body = inside.dump(force=True)
    changed["tbs_certificate"] = asn1_x509.TbsCertificate.load(body)
    changed["signature_value"] = sign_der(own, body)
    return bytes(changed.dump(force=True))


def sign_der(own: Key, message: bytes) -> bytes:
    """Sign with a CA's EC key; return the signature in DER."""
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    return own.sign(message, ec.ECDSA(hashes.SHA256()))


def token_sign(private: Key, suite: Suite, message: bytes) -> bytes:
    """Sign as a token does: r and s concatenated for ECDSA."""
    digest = getattr(hashes, suite.digest.upper())()
    if isinstance(private, ec.EllipticCurvePrivateKey):
        size = private.key_size // 8
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if suite.padding is Padding.PKCS1:
        return private.sign(message, padding.PKCS1v15(), digest)
    return private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)


def sign_order(  # noqa: PLR0913 - a part each
    content: bytes,
    private: Key,
    certificate: bytes,
    suite: Suite,
    *,
    profile: Profile = Profile.CADES,
    confirmation: Confirmation | None = Confirmation.HOST,
    intermediates: Sequence[bytes] = (),
    signing_time: datetime = NOW,
) -> bytes:
    """Return a signed order as a token would produce it."""
    stated = None if profile is Profile.PLAIN else confirmation
    draft = Template(certificate, suite, profile, stated, intermediates).draft(content, signing_time)
    return draft.assemble(token_sign(private, suite, draft.message))


def openssl_accepts(
    signed: bytes, roots: bytes, folder: Path, *, options: Sequence[str] = (), moment: datetime = NOW
) -> bool:
    """Tell whether ``openssl cms -verify`` accepts it at ``moment``, with ``roots`` (PEM) as trusted CAs."""
    (folder / "roots.pem").write_bytes(roots)
    (folder / "signed.p7m").write_bytes(signed)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any", "-CAfile", "roots.pem"]
    command += ["-in", "signed.p7m", "-out", "content", "-attime", str(int(moment.timestamp())), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
