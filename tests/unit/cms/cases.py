"""Signed orders that each break one rule: how they are made, the strict reader's result, and openssl's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.cms import forge, pki
from tests.unit.cms.forge import Forgery, attribute
from tests.unit.cms.people import CONTENT, P256, P384, RSA, Bank, Customer
from ushield_hw.cms import CertificateFacts
from ushield_hw.crypto.algorithms import CURVES, KeyKind
from ushield_hw.crypto.der import GENERALIZED_TIME, OCTET_STRING, SEQUENCE, UTC_TIME, UTF8_STRING, integer, oid, tlv


@dataclass(frozen=True)
class Scenario:
    """The forger's material: genuine orders of two customers of one bank."""

    bank: Bank
    one: Customer
    other: Customer
    cades: Forgery
    plain: Forgery

    def attributes(self, *, without: bytes = b"", **replaced: bytes) -> list[bytes]:
        """The correct attributes, sorted; some replaced (names as in ``forge``) or omitted."""
        right = forge.attributes(P256, self.one.certificate, CONTENT)
        right.update({getattr(forge, name.upper()): value for name, value in replaced.items()})
        return sorted(value for name, value in right.items() if name != without)

    def with_attributes(self, **replaced: bytes) -> Forgery:
        return self.cades.but(attributes=self.attributes(**replaced))

    def and_attribute(self, *added: bytes) -> Forgery:
        return self.cades.but(attributes=sorted([*self.attributes(), *added]))


def make_scene(bank: Bank) -> Scenario:
    one, other = bank.customer(), bank.customer(number=1)
    return Scenario(
        bank,
        one,
        other,
        forge.cades(one.private, one.certificate, P256, CONTENT),
        forge.plain(one.private, one.certificate, P256, CONTENT),
    )


SHA1 = tlv(SEQUENCE, oid("1.3.14.3.2.26"))
SHA384 = P384.digest_algorithm
ECDSA_SHA1 = tlv(SEQUENCE, oid("1.2.840.10045.4.1"))
SHA256_NULL = tlv(SEQUENCE, oid("2.16.840.1.101.3.4.2.1"), b"\x05\x00")
PRIVATE = attribute(oid("1.3.6.1.4.1.99999.1"), tlv(UTF8_STRING, b"pay twice"))


def sha1(scenario: Scenario) -> Forgery:
    private = scenario.one.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return scenario.plain.but(
        digest_algorithms=[SHA1],
        digest_algorithm=SHA1,
        signature_algorithm=ECDSA_SHA1,
        sign=lambda message: private.sign(message, ec.ECDSA(hashes.SHA1())),  # noqa: S303 - what must be refused
    )


def by_key_identifier(scenario: Scenario) -> Forgery:
    named = x509.SubjectKeyIdentifier(hashlib.sha1(b"any", usedforsecurity=False).digest())
    issued = scenario.bank.issuing.issue("CN=A", scenario.one.private.public_key(), extensions=[(named, False)])
    signer_id = tlv(0x80, named.digest)
    forgery = forge.cades(scenario.one.private, pki.der(issued), P256, CONTENT)
    return forgery.but(version=integer(3), signer_version=integer(3), signer_id=signer_id)


def same_names(scenario: Scenario) -> bytes:
    """Another key's certificate with the signer's issuer and serial number; longer, so that it is sorted last."""
    serial = CertificateFacts.read(scenario.one.certificate).serial
    return pki.der(scenario.bank.issuing.issue("CN=" + "B" * 60, scenario.other.private.public_key(), serial=serial))


def short_rsa(scenario: Scenario) -> Forgery:
    short = scenario.bank.customer(KeyKind.RSA, bits=1024)
    return forge.plain(short.private, short.certificate, RSA, CONTENT)


def _signed_at(value: bytes) -> Callable[[Scenario], Forgery]:
    return lambda scenario: scenario.with_attributes(signing_time=attribute(forge.SIGNING_TIME, value))


# RFC 5652 section 11.3: UTCTime from 1950 to 2049, otherwise GeneralizedTime; with seconds and Z.
_WRONG_TIMES: list[tuple[str, Callable[[Scenario], Forgery], str, bool, bool]] = [
    (f"the signing time is {tag:#x} {text.decode()}", _signed_at(tlv(tag, text)), "signing_time", True, True)
    for tag, text in [
        (GENERALIZED_TIME, b"20261124020000Z"),
        (GENERALIZED_TIME, b"20500101000000.5Z"),
        (GENERALIZED_TIME, b"20500101000000+0000"),
        (GENERALIZED_TIME, b"00000101000000Z"),
        (UTC_TIME, b"2611240200Z"),
        (UTC_TIME, b"261124020000"),
        (UTC_TIME, b"261124020000+0000"),
        (UTC_TIME, b"261124100000+0800"),
        (UTC_TIME, b"261324020000Z"),
        (UTC_TIME, b"260230020000Z"),
        (UTC_TIME, b"261124240000Z"),
        (UTC_TIME, b"261124020060Z"),
        (UTC_TIME, b"26112402000 Z"),
        (UTC_TIME, b"2026-11-24T02:00:00Z"),
        (UTC_TIME, b""),
        (UTF8_STRING, b"261124020000Z"),
    ]
]


# Each case: the change, the problem that the reader reports, and whether `openssl cms -verify` accepts it without and
# with -cades. Where openssl accepts it, the stricter result is intended.
CASES: list[tuple[str, Callable[[Scenario], Forgery], str, bool, bool]] = [
    # signed attributes
    (
        "the contentType attribute differs",
        lambda s: s.with_attributes(content_type=attribute(forge.CONTENT_TYPE, forge.ID_SIGNED_DATA)),
        "attribute_content_type",
        True,
        True,
    ),
    (
        "an attribute twice",
        lambda s: s.and_attribute(forge.attributes(P256, s.one.certificate, CONTENT)[forge.CONFIRMATION]),
        "attribute_repeated",
        True,
        True,
    ),
    (
        "two confirmations",
        lambda s: s.and_attribute(attribute(forge.CONFIRMATION, tlv(UTF8_STRING, b"button"))),
        "attribute_repeated",
        True,
        True,
    ),
    (
        "two values in an attribute",
        lambda s: s.with_attributes(
            confirmation=attribute(forge.CONFIRMATION, tlv(UTF8_STRING, b"host"), tlv(UTF8_STRING, b"none"))
        ),
        "attribute_values",
        True,
        True,
    ),
    (
        "unsorted attributes signed as sent",
        lambda s: s.cades.but(attributes=s.attributes()[::-1]),
        "attributes_unsorted",
        True,
        True,
    ),
    (
        "the hash of another certificate",
        lambda s: s.with_attributes(
            signing_certificate_v2=forge.attributes(P256, s.other.certificate, CONTENT)[forge.SIGNING_CERTIFICATE_V2]
        ),
        "certificate_hash",
        True,
        False,
    ),
    ("an attribute too many", lambda s: s.and_attribute(PRIVATE), "attribute_unknown", True, True),
    (
        "no signing time",
        lambda s: s.cades.but(attributes=s.attributes(without=forge.SIGNING_TIME)),
        "attribute_missing",
        True,
        True,
    ),
    (
        "two signing times",
        lambda s: s.and_attribute(attribute(forge.SIGNING_TIME, tlv(UTC_TIME, b"261124020001Z"))),
        "attribute_repeated",
        False,
        False,
    ),
    (
        "no confirmation",
        lambda s: s.cades.but(attributes=s.attributes(without=forge.CONFIRMATION)),
        "attribute_missing",
        True,
        True,
    ),
    (
        "no signing certificate",
        lambda s: s.cades.but(attributes=s.attributes(without=forge.SIGNING_CERTIFICATE_V2)),
        "attribute_missing",
        True,
        False,
    ),
    (
        "no content type",
        lambda s: s.cades.but(attributes=s.attributes(without=forge.CONTENT_TYPE)),
        "attribute_missing",
        False,
        False,
    ),
    (
        "no message digest",
        lambda s: s.cades.but(attributes=s.attributes(without=forge.MESSAGE_DIGEST)),
        "attribute_missing",
        False,
        False,
    ),
    (
        "the digest of something else",
        lambda s: s.with_attributes(message_digest=attribute(forge.MESSAGE_DIGEST, tlv(OCTET_STRING, bytes(32)))),
        "message_digest",
        False,
        False,
    ),
    (
        "an unknown confirmation",
        lambda s: s.with_attributes(confirmation=attribute(forge.CONFIRMATION, tlv(UTF8_STRING, b"yes"))),
        "confirmation_unknown",
        True,
        True,
    ),
    (
        "a confirmation that is no UTF8String",
        lambda s: s.with_attributes(confirmation=attribute(forge.CONFIRMATION, tlv(0x13, b"host"))),
        "confirmation_unknown",
        True,
        True,
    ),
    (
        "an attribute that holds something after its values",
        lambda s: s.with_attributes(
            confirmation=tlv(SEQUENCE, forge.CONFIRMATION, tlv(0x31, b"\x05\x00"), b"\x05\x00")
        ),
        "attributes_malformed",
        False,
        False,
    ),
    *_WRONG_TIMES,
    ("no attributes, but a place for them", lambda s: s.cades.but(attributes=[]), "attribute_missing", False, False),
    ("unsigned attributes", lambda s: s.cades.but(unsigned=tlv(0xA1, PRIVATE)), "unsigned_attributes", True, True),
    # signers and certificates
    (
        "two signers",
        lambda s: s.cades.but(
            more_signers=[forge.cades(s.other.private, s.other.certificate, P256, CONTENT).signer_info()],
            certificates=sorted([s.one.certificate, s.other.certificate]),
        ),
        "several_signers",
        True,
        True,
    ),
    ("one signer twice", lambda s: s.cades.but(more_signers=[s.cades.signer_info()]), "several_signers", True, True),
    (
        "another's certificate instead",
        lambda s: s.cades.but(certificates=[s.other.certificate]),
        "signer_certificate",
        False,
        False,
    ),
    (
        "another key's certificate of the same issuer and serial number",
        lambda s: s.cades.but(certificates=[same_names(s)]),
        "certificate_hash",
        False,
        False,
    ),
    (
        "two certificates of one issuer and serial number",
        lambda s: s.cades.but(certificates=sorted([s.one.certificate, same_names(s)])),
        "signer_certificate",
        True,  # it finds the correct one first
        True,
    ),
    ("no certificate", lambda s: s.cades.but(certificates=[]), "no_certificate", False, False),
    (
        "a stranger's certificate besides",
        lambda s: s.cades.but(certificates=sorted([s.one.certificate, s.other.certificate])),
        "certificate_not_on_path",
        True,
        True,
    ),
    (
        "the certificate twice",
        lambda s: s.cades.but(certificates=[s.one.certificate] * 2),
        "certificates_unsorted",
        True,
        True,
    ),
    (
        "unsorted certificates",
        lambda s: s.cades.but(certificates=sorted([s.one.certificate, s.bank.issuing.der])[::-1]),
        "certificates_unsorted",
        True,
        True,
    ),
    (
        "an attribute certificate",
        lambda s: s.cades.but(certificates=[s.one.certificate, tlv(0xA1, b"\x05\x00")]),
        "certificate_kind",
        True,
        True,
    ),
    (
        "a certificate that is none",
        lambda s: s.cades.but(certificates=[b"\x30\x00", s.one.certificate]),
        "certificate_malformed",
        False,
        False,
    ),
    (
        "more certificates than a path has",
        lambda s: s.cades.but(certificates=[*(tlv(SEQUENCE, integer(n)) for n in range(5)), s.one.certificate]),
        "certificate_not_on_path",
        False,
        False,
    ),
    ("revocation lists inside", lambda s: s.cades.but(crls=tlv(0xA1, s.bank.issuing.crl())), "crls", True, True),
    ("the signer named by key identifier", by_key_identifier, "version", True, True),
    (
        "the same, in a container of version 1",
        lambda s: by_key_identifier(s).but(version=integer(1), signer_version=integer(1)),
        "signer_id",
        True,
        True,
    ),
    ("container version 3", lambda s: s.cades.but(version=integer(3)), "version", True, True),
    ("signer version 3", lambda s: s.cades.but(signer_version=integer(3)), "version", True, True),
    # algorithms
    ("SHA-1", sha1, "digest_algorithm", True, True),
    (
        "two digest algorithms",
        lambda s: s.plain.but(digest_algorithms=[P256.digest_algorithm, SHA384]),
        "digest_algorithm",
        True,
        True,
    ),
    ("another digest announced", lambda s: s.plain.but(digest_algorithms=[SHA384]), "digest_algorithm", False, False),
    (
        "a digest the signature algorithm does not go with",
        lambda s: s.plain.but(digest_algorithms=[SHA384], digest_algorithm=SHA384),
        "algorithms_differ",
        False,
        False,
    ),
    (
        "digest parameters NULL",
        lambda s: s.cades.but(digest_algorithms=[SHA256_NULL], digest_algorithm=SHA256_NULL),
        "digest_algorithm",
        True,
        True,
    ),
    (
        "a signature algorithm nobody knows",
        lambda s: s.plain.but(signature_algorithm=ECDSA_SHA1),
        "signature_algorithm",
        True,
        True,
    ),
    (
        "the signature algorithm of another curve",
        lambda s: s.plain.but(signature_algorithm=P384.signature_algorithm),
        "key_kind",
        True,
        True,
    ),
    ("a short RSA key", short_rsa, "key_too_short", True, True),
    # the signature value
    (
        "r is zero",
        lambda s: s.plain.but(signature=tlv(SEQUENCE, integer(0), integer(1))),
        "signature_form",
        False,
        False,
    ),
    (
        "s is zero",
        lambda s: s.plain.but(signature=tlv(SEQUENCE, integer(1), integer(0))),
        "signature_form",
        False,
        False,
    ),
    (
        "r is negative",
        lambda s: s.plain.but(signature=tlv(SEQUENCE, b"\x02\x01\xff", integer(1))),
        "signature_form",
        False,
        False,
    ),
    (
        "r is the curve's order",
        lambda s: s.plain.but(signature=tlv(SEQUENCE, integer(CURVES[KeyKind.EC_P256].order), integer(1))),
        "signature_form",
        False,
        False,
    ),
    ("r and s side by side", lambda s: s.plain.but(signature=b"\x01" * 64), "signature_form", False, False),
    (
        "something after r and s",
        lambda s: s.plain.but(signature=tlv(SEQUENCE, integer(1), integer(1), integer(1))),
        "signature_form",
        False,
        False,
    ),
    (
        "something after the ECDSA value",
        lambda s: s.plain.but(signature=tlv(SEQUENCE, integer(1), integer(1)) + b"\x05\x00"),
        "signature_form",
        False,
        False,
    ),
    ("something after the signature", lambda s: s.cades.but(unsigned=b"\x05\x00"), "structure", False, False),
    ("something after the signers", lambda s: s.cades.but(after_signers=b"\x05\x00"), "structure", False, False),
    # the content
    ("something after the content", lambda s: s.cades.but(after_content=b"\x05\x00"), "structure", False, False),
    ("detached", lambda s: s.cades.but(wrapped_content=b""), "detached", False, False),
    ("another content type", lambda s: s.plain.but(content_type=forge.ID_SIGNED_DATA), "content_type", True, True),
    (
        "content in pieces",
        lambda s: s.plain.but(
            wrapped_content=tlv(0x24, tlv(OCTET_STRING, CONTENT[:9]), tlv(OCTET_STRING, CONTENT[9:]))
        ),
        "not_der",
        True,
        True,
    ),
    (
        "content that is longer than what is around it",
        lambda s: s.plain.but(wrapped_content=b"\x04\x7f" + CONTENT),
        "overrun",
        False,
        False,
    ),
    (
        "two contents",
        lambda s: s.plain.but(wrapped_content=tlv(OCTET_STRING, CONTENT) + tlv(OCTET_STRING, CONTENT)),
        "structure",
        False,
        False,
    ),
]
