"""Helpers of the contract tests: a certificate to write, and signature verification with cryptography only."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from tests.contract.subjects import Subject
from ushield_hw.backend.model import KeyRecord, SignCall
from ushield_hw.crypto.algorithms import DIGEST_INFO_PREFIX, KeyKind

MESSAGE = b"CNY 128.50"
HASHES: dict[str, HashAlgorithm] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
CURVES: dict[KeyKind, ec.EllipticCurve] = {KeyKind.EC_P256: ec.SECP256R1(), KeyKind.EC_P384: ec.SECP384R1()}
MECHANISMS = {KeyKind.EC_P256: "ECDSA", KeyKind.EC_P384: "ECDSA", KeyKind.RSA: "RSA_PKCS"}


def digest_of(message: bytes, name: str = "sha256") -> bytes:
    return hashlib.new(name, message).digest()


def public_half(subject: Subject, private: KeyRecord) -> bytes:
    found = next(key for key in subject.module.keys(subject.slot) if not key.private and key.key_id == private.key_id)
    assert found.public is not None
    return found.public


def public_rsa(modulus: bytes) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus)).public_key()


def verify_ecdsa(key: ec.EllipticCurvePublicKey, raw: bytes, digest: bytes, name: str = "sha256") -> None:
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    key.verify(signature, digest, ec.ECDSA(Prehashed(HASHES[name])))


def call_of(private: KeyRecord, message: bytes = MESSAGE, digest: str = "sha256") -> SignCall:
    """Return a signing call for a key of any kind, over a digest computed on the host."""
    assert private.kind is not None
    prefix = DIGEST_INFO_PREFIX[digest] if private.kind is KeyKind.RSA else b""
    return SignCall(private.handle, MECHANISMS[private.kind], prefix + digest_of(message, digest))


def verify(kind: KeyKind, public: bytes, raw: bytes, message: bytes = MESSAGE, digest: str = "sha256") -> None:
    """Verify a signature made by :func:`call_of` with a public key in :class:`KeyRecord` format."""
    if kind is KeyKind.RSA:
        public_rsa(public).verify(raw, message, padding.PKCS1v15(), HASHES[digest])
    else:
        point = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[kind], public)
        verify_ecdsa(point, raw, digest_of(message, digest), digest)


def sign_and_verify(subject: Subject, login: int, message: bytes) -> None:
    private = subject.key(subject.usual)
    raw = subject.module.sign(login, call_of(private, message))
    verify(subject.usual, public_half(subject, private), raw, message)


def self_signed() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "张三")])
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 0x1234)
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, SHA256())


def write(subject: Subject, login: int, certificate: x509.Certificate) -> int:
    return subject.module.write_certificate(
        *(login, certificate.public_bytes(Encoding.DER)),
        key_id=b"\x01",
        label="pay",
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        serial=bytes.fromhex("02021234"),
    )
