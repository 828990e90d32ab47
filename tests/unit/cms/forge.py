"""Signed orders that each break one rule: correctly signed, but assembled by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.unit.cms import pki
from ushield_hw.cms import CONFIRMATION_OID, CertificateFacts
from ushield_hw.crypto.algorithms import Suite
from ushield_hw.crypto.der import OCTET_STRING, SEQUENCE, SET, UTC_TIME, UTF8_STRING, integer, oid, tlv

ID_DATA = oid("1.2.840.113549.1.7.1")
ID_SIGNED_DATA = oid("1.2.840.113549.1.7.2")
CONTENT_TYPE = oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = oid("1.2.840.113549.1.9.4")
SIGNING_TIME = oid("1.2.840.113549.1.9.5")
SIGNING_CERTIFICATE_V2 = oid("1.2.840.113549.1.9.16.2.47")
CONFIRMATION = oid(CONFIRMATION_OID)


def attribute(name: bytes, *values: bytes) -> bytes:
    return tlv(SEQUENCE, name, tlv(SET, *values))


def attributes(suite: Suite, certificate: bytes, content: bytes, *, confirmation: str = "host") -> dict[bytes, bytes]:
    """The correct attributes, by name."""
    hashed = tlv(SEQUENCE, tlv(SEQUENCE, tlv(SEQUENCE, tlv(OCTET_STRING, CertificateFacts.read(certificate).sha256))))
    return {
        CONTENT_TYPE: attribute(CONTENT_TYPE, ID_DATA),
        MESSAGE_DIGEST: attribute(MESSAGE_DIGEST, tlv(OCTET_STRING, suite.hash(content))),
        SIGNING_TIME: attribute(SIGNING_TIME, tlv(UTC_TIME, b"261124020000Z")),
        SIGNING_CERTIFICATE_V2: attribute(SIGNING_CERTIFICATE_V2, hashed),
        CONFIRMATION: attribute(CONFIRMATION, tlv(UTF8_STRING, confirmation.encode())),
    }


@dataclass(frozen=True)
class Forgery:
    """All parts of a signed order, each replaceable. Parts not given have their correct values.

    ``attributes`` are written and signed in the given order; None makes a plain signature.
    """

    private: pki.Key
    certificate: bytes
    suite: Suite
    content: bytes
    attributes: Sequence[bytes] | None = None
    certificates: Sequence[bytes] | None = None
    version: bytes = integer(1)
    signer_version: bytes = integer(1)
    signer_id: bytes | None = None
    digest_algorithms: Sequence[bytes] | None = None
    digest_algorithm: bytes | None = None
    signature_algorithm: bytes | None = None
    content_type: bytes = ID_DATA
    wrapped_content: bytes | None = None  # content of [0]; empty for a detached signature
    crls: bytes = b""
    unsigned: bytes = b""
    signature: bytes | None = None
    sign: Callable[[bytes], bytes] | None = None
    more_signers: Sequence[bytes] = field(default=())
    after_content: bytes = b""
    after_signers: bytes = b""

    def but(self, **parts: object) -> Forgery:
        return replace(self, **parts)  # type: ignore[arg-type]

    def signer_info(self) -> bytes:
        signed = self.content if self.attributes is None else tlv(SET, *self.attributes)
        value = self.signature if self.signature is not None else self._sign(signed)
        return tlv(
            SEQUENCE,
            self.signer_version,
            self.signer_id or CertificateFacts.read(self.certificate).issuer_and_serial,
            self.digest_algorithm or self.suite.digest_algorithm,
            b"" if self.attributes is None else tlv(0xA0, *self.attributes),
            self.signature_algorithm or self.suite.signature_algorithm,
            tlv(OCTET_STRING, value),
            self.unsigned,
        )

    def signed_data(self) -> bytes:
        certificates = [self.certificate] if self.certificates is None else self.certificates
        algorithms = self.digest_algorithms or [self.suite.digest_algorithm]
        inside = tlv(OCTET_STRING, self.content) if self.wrapped_content is None else self.wrapped_content
        return tlv(
            SEQUENCE,
            self.version,
            tlv(SET, *algorithms),
            tlv(SEQUENCE, self.content_type, tlv(0xA0, inside) if inside else b"", self.after_content),
            tlv(0xA0, *certificates) if certificates else b"",
            self.crls,
            tlv(SET, self.signer_info(), *self.more_signers),
            self.after_signers,
        )

    def der(self) -> bytes:
        return wrapped(self.signed_data())

    def _sign(self, message: bytes) -> bytes:
        if self.sign is not None:
            return self.sign(message)
        raw = pki.token_sign(self.private, self.suite, message)
        return raw if self.suite.name.startswith("rsa") else _wire(raw)


def cades(private: pki.Key, certificate: bytes, suite: Suite, content: bytes) -> Forgery:
    """A valid CAdES signed order, to be modified."""
    right = sorted(attributes(suite, certificate, content).values())
    return Forgery(private, certificate, suite, content, attributes=right)


def plain(private: pki.Key, certificate: bytes, suite: Suite, content: bytes) -> Forgery:
    """A valid plain signed order, to be modified."""
    return Forgery(private, certificate, suite, content)


def wrapped(signed_data: bytes) -> bytes:
    """ContentInfo with signed data."""
    return outermost(signed_data)


def outermost(signed_data: bytes, after: bytes = b"") -> bytes:
    """The same, with data after the wrapper."""
    return tlv(SEQUENCE, ID_SIGNED_DATA, tlv(0xA0, signed_data), after)


def as_ber(forgery: Forgery) -> bytes:
    """With indefinite lengths on the outer levels, as many programs write it."""
    return b"\x30\x80" + ID_SIGNED_DATA + b"\xa0\x80" + forgery.signed_data() + b"\x00\x00" + b"\x00\x00"


def _wire(raw: bytes) -> bytes:
    half = len(raw) // 2
    return tlv(SEQUENCE, integer(int.from_bytes(raw[:half], "big")), integer(int.from_bytes(raw[half:], "big")))
