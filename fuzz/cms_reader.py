"""Signed orders and certificates: the project's parsers compared with others; openssl confirms every acceptance."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuzz.der import Bender, read
from fuzz.forger import BANK, KEPT, WORDS, Forger, certificate, seeds
from fuzz.target import Target, refused, seen
from tests.unit.cms import pki
from ushield_hw.cms import CertificateFacts, Template, parse
from ushield_hw.crypto.algorithms import SUITES, KeyKind
from ushield_hw.crypto.der import DerError
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import BadSignature, InputError, InvalidError, UntrustedSigner, VerificationError
from ushield_hw.verifier import TrustStore, verify
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.certificate import Certificate

_TRUST: Final = TrustStore([BANK.root.der], [BANK.issuing.der])
_ROOTS: Final = BANK.root.pem + BANK.issuing.pem
_FOLDER: Final = KEPT.parent

_judged: set[bytes] = set()


def read_one(data: bytes) -> None:
    """An accepted signed order is byte for byte what the project's writer makes of the parsed parts."""
    try:
        parts = parse(data)
    except (BadSignature, InputError) as error:
        refused(error, BadSignature, InputError)
        return
    raw = parts.signature
    if parts.suite.key is not KeyKind.RSA:
        size = parts.signer.key_bits // 8
        r, s = decode_dss_signature(raw)
        raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    template = Template(parts.certificate, parts.suite, parts.profile, parts.confirmation, parts.intermediates)
    assert template.draft(parts.content, parts.signing_time or pki.NOW).assemble(raw) == data
    seen["accepted"] += 1


def verify_one(data: bytes) -> None:
    """What the verifier accepts, openssl accepts; everything else raises a documented error."""
    try:
        verified = verify(data, trust=_TRUST, at=pki.NOW)
    except (InputError, VerificationError) as error:
        refused(error, BadSignature, InputError, InvalidError, UntrustedSigner, VerificationError)
        return
    seen["accepted"] += 1
    assert verified.order.canonical in data or verified.format != "jcs"
    assert verified.signer.certificate in data
    verified.to_json()
    _judge(data)


def _judge(data: bytes) -> None:
    digest = hashlib.sha256(data).digest()
    if digest in _judged:
        return
    _judged.add(digest)
    seen["judged by openssl"] += 1
    assert pki.openssl_accepts(data, _ROOTS, _FOLDER), "we accept what openssl refuses"


def certificate_one(data: bytes) -> None:
    """The parsed fields of a certificate match cryptography's, where cryptography can parse it."""
    try:
        facts = CertificateFacts.read(data)
    except InputError as error:
        refused(error, InputError)
        return
    seen["accepted"] += 1
    for name in (facts.subject_text, facts.issuer_text):
        try:
            name()
        except InputError as error:
            refused(error, InputError)
    try:
        Certificate(facts).value(ext.BASIC_CONSTRAINTS)
    except (InputError, DerError):
        seen["accepted, not for a path"] += 1
    try:
        with reading():
            other = x509.load_der_x509_certificate(data)
            said = _said(other)
    except Unreadable:
        seen["accepted, not read by cryptography"] += 1
        return
    assert said == (facts.serial, facts.issuer, facts.subject, facts.not_before, facts.not_after, facts.is_ca), said
    _same_key(other, facts)


def _said(other: x509.Certificate) -> tuple[object, ...]:
    try:
        is_ca = other.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    names = (other.issuer.public_bytes(), other.subject.public_bytes())
    return (other.serial_number, *names, other.not_valid_before_utc, other.not_valid_after_utc, is_ca)


def _same_key(other: x509.Certificate, facts: CertificateFacts) -> None:
    if facts.key is None:
        return
    try:
        key = other.public_key()
    except (ValueError, TypeError):  # not a point on the curve: detected by the signature check
        return
    assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == facts.spki
    assert facts.key_bits == key.key_size  # type: ignore[union-attr]


def _bent_certificate(data: bytes, random: Random) -> bytes:
    tree = read(data) or read(certificate(SUITES[0]))
    assert tree is not None
    bender = Bender(random, WORDS, [tree])
    for _ in range(random.choice((1, 1, 2, 3))):
        bender.bend(random.choice((tree, *(tree.children or [])[:1])))
    return tree.written()


_FORGER: Final = Forger()

TARGETS: Final = {
    "cms": Target(seeds(), read_one, _FORGER.mutate),
    "verify": Target(seeds(), verify_one, _FORGER.mutate),
    "certificate": Target(
        [*(certificate(suite) for suite in SUITES), BANK.root.der, BANK.issuing.der], certificate_one, _bent_certificate
    ),
}
