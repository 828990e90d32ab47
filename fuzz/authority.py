"""Input from and to CAs: requests, CRLs, responses of a bank. The project's parsers are compared with cryptography's.

Every CRL that makes a certificate good is also checked with openssl.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from random import Random
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates

from fuzz.der import Bender, Node, read
from fuzz.forger import BANK, KEPT, WORDS, _ec, attempt, certificate, seeds
from fuzz.target import Target, refused, seen
from tests.unit.cms import pki
from tests.unit.cms.people import P256
from ushield_hw.bank.ca.requests import read_request
from ushield_hw.certificates.renewal.est_client import certificate_in
from ushield_hw.cms import CertificateFacts, names
from ushield_hw.crypto import pem
from ushield_hw.crypto.der import DerError, oid, tlv
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError, RequestRefused, Revoked, VerificationError
from ushield_hw.verifier import Revocation, TrustStore, verify
from ushield_hw.verifier.crl import Crl

_OWN: Final = _ec(7)
_SIGNED: Final = next(seed for seed in seeds() if certificate(P256) in seed)
_SERIAL: Final = CertificateFacts.read(certificate(P256)).serial
_ROOT_CRL: Final = BANK.root.crl()
_FOLDER: Final = KEPT.parent

_judged: set[bytes] = set()


# --- requests ---------------------------------------------------------------------------------------------------------


def request_one(data: bytes) -> None:
    """An accepted request is also accepted by cryptography and has a valid signature by its key."""
    try:
        found = read_request(data)
    except RequestRefused as error:
        refused(error, RequestRefused)
        return
    seen["accepted"] += 1
    library = x509.load_der_x509_csr(data)
    assert library.is_signature_valid
    assert found.spki in data and found.subject == library.subject


def _request() -> bytes:
    name = x509.Name.from_rfc4514_string("CN=张三,O=Demo Bank")
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    made = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.cn")]), critical=False)
    return made.sign(_OWN, hashes.SHA256()).public_bytes(Encoding.DER)


# --- CRLs -------------------------------------------------------------------------------------------------------------


def crl_one(data: bytes) -> None:
    """The content of a CRL matches cryptography's; if it makes a certificate good, openssl agrees."""
    try:
        found = Crl(data)
    except DerError:
        seen["refused: no CRL"] += 1
        return
    seen["read"] += 1
    _compare(found, data)
    try:
        verified = verify(_SIGNED, trust=TrustStore([BANK.root.der], [BANK.issuing.der], [_ROOT_CRL, data]), at=pki.NOW)
    except (InputError, Revoked, VerificationError) as error:
        refused(error, InputError, Revoked, VerificationError)
        return
    assert verified.revocation is Revocation.GOOD
    seen["accepted"] += 1
    _judge(data)


def _compare(found: Crl, data: bytes) -> None:
    try:
        with reading():
            library = x509.load_der_x509_crl(data)
            said = library.last_update_utc, library.next_update_utc, library.issuer.public_bytes()
            entries = {entry.serial_number: entry.revocation_date_utc for entry in library}
    except Unreadable:
        seen["read, not by cryptography"] += 1
        return
    assert said == (found.this_update, found.next_update, found.issuer_der)
    issuer = names.canonical(found.issuer_der)
    if found.scope.is_indirect:
        return
    for serial, revoked in entries.items():
        try:
            ours = found.entry(serial, issuer)
        except DerError:
            continue
        assert ours is not None and (ours.revoked == revoked or list(entries).count(serial) > 1), serial


def _judge(data: bytes) -> None:
    digest = hashlib.sha256(data).digest()
    if digest in _judged:
        return
    _judged.add(digest)
    seen["judged by openssl"] += 1
    lists = [pem.armored(one, "X509 CRL") for one in (_ROOT_CRL, data)]
    trusted = BANK.root.pem + BANK.issuing.pem + b"".join(lists)
    accepted = pki.openssl_accepts(_SIGNED, trusted, _FOLDER, options=["-crl_check_all"])
    assert accepted, "we call good what openssl does not"


def _crls() -> list[bytes]:
    scope = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    some = {12345: pki.NOW - pki.DAY, 77_000: pki.NOW - 2 * pki.DAY}
    issuing = BANK.issuing
    return [
        issuing.crl(),
        issuing.crl(some, reason=x509.ReasonFlags.key_compromise),
        issuing.crl({_SERIAL: pki.NOW - pki.DAY}),
        issuing.crl(some, extensions=[(x509.CRLNumber(7), False), (scope, True)]),
        issuing.crl(extensions=[(x509.DeltaCRLIndicator(7), True)]),
    ]


_CRL_WORDS: Final = (
    *WORDS,
    *(tlv(0x30, oid(f"2.5.29.{n}"), b"\x01\x01\xff", tlv(0x04, b"\x30\x00")) for n in (20, 21, 23, 24, 27, 28, 29, 46)),
    *(tlv(0x30, oid("2.5.29.21"), tlv(0x04, bytes((0x0A, 1, n)))) for n in (0, 1, 6, 8, 10, 11)),
    tlv(0x30, oid("2.5.29.27"), b"\x01\x01\xff", tlv(0x04, b"\x02\x01\x01")),
    *(
        tlv(0x30, oid("2.5.29.28"), b"\x01\x01\xff", tlv(0x04, tlv(0x30, one)))
        for one in (b"\x81\x01\xff", b"\x82\x01\xff", b"\x83\x02\x06\x40", b"\x84\x01\xff", b"\x85\x01\xff")
    ),
)


# --- responses of a bank ----------------------------------------------------------------------------------------------


def answer_one(data: bytes) -> None:
    """A response contains one certificate or is rejected."""
    try:
        found = certificate_in(data)
    except Unreadable:
        seen["refused"] += 1
        return
    seen["accepted"] += 1
    assert not CertificateFacts.read(found).is_ca


def _answers() -> list[bytes]:
    loaded = [x509.load_der_x509_certificate(one) for one in (certificate(P256), BANK.issuing.der)]
    return [base64.encodebytes(serialize_certificates(some, Encoding.DER)) for some in (loaded[:1], loaded)]


# --- mutation ---------------------------------------------------------------------------------------------------------


def _bent(
    starts: list[bytes], words: tuple[bytes, ...], sign: Callable[[Node], None]
) -> Callable[[bytes, Random], bytes]:
    """Return a mutator for a signed structure: it mutates the body and usually signs it again."""

    def mutate(data: bytes, random: Random) -> bytes:
        tree = read(data) if random.random() < 0.3 else None
        tree = tree or read(random.choice(starts))
        assert tree is not None
        bender = Bender(random, words, [tree])
        for _ in range(random.choice((1, 1, 2, 3))):
            bender.bend(random.choice((tree, *(tree.children or [])[:1])))
        if random.random() < 0.85:
            attempt(lambda: sign(tree))
        return tree.written()

    return mutate


def _signed_by(own: pki.Key) -> Callable[[Node], None]:
    return lambda tree: tree.child(2).set(b"\0" + pki.sign_der(own, tree.child(0).written()))


def _bent_answer(data: bytes, random: Random) -> bytes:
    start = base64.b64decode(random.choice(_ANSWERS))
    return base64.encodebytes(_BEND_ANSWER(start, random))


_REQUESTS: Final = [_request()]
_CRLS: Final = _crls()
_ANSWERS: Final = _answers()
_BEND_ANSWER: Final = _bent([base64.b64decode(one) for one in _ANSWERS], WORDS, lambda _: None)

TARGETS: Final = {
    "request": Target(_REQUESTS, request_one, _bent(_REQUESTS, WORDS, _signed_by(_OWN))),
    "crl": Target(_CRLS, crl_one, _bent(_CRLS, _CRL_WORDS, _signed_by(BANK.issuing.key))),
    "answer": Target(_ANSWERS, answer_one, _bent_answer),
}
