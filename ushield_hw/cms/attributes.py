"""The four signed attributes of a CAdES signed order: written, and told apart from every near miss.

CAdES-B-B asks for content-type, message-digest (RFC 5652) and signing-certificate-v2 (RFC 5035); the fourth is ours and
states how the person confirmed. The certificate is named by its SHA-256 digest alone: SHA-256 is the default, which DER
leaves out, and the issuer and serial number stand in the SignerInfo already.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from ushield_hw.cms.der import OCTET_STRING, OID, SEQUENCE, SET, UTF8_STRING, DerError, Reader, oid, tlv

CONFIRMATION_OID: Final = "2.25.319563466725128987539907167962394641551"

ID_DATA: Final = oid("1.2.840.113549.1.7.1")

_CONTENT_TYPE: Final = oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST: Final = oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2: Final = oid("1.2.840.113549.1.9.16.2.47")
_CONFIRMATION: Final = oid(CONFIRMATION_OID)


class Confirmation(StrEnum):
    """How the person confirmed the order, as the signer states it."""

    BUTTON = "button"  # pressed on the token, which showed the order
    PINPAD = "pinpad"  # typed the PIN on the token, which showed the order
    TOUCH = "touch"  # touched the token, the host showed the order
    HOST = "host"  # agreed on the host, which showed the order
    NONE = "none"  # nobody looked


@dataclass(frozen=True, slots=True)
class SignedAttributes:
    """All signed attributes of one signer but for the digest of the content, which stands in between."""

    before: bytes
    after: bytes

    def encode(self, digest: bytes) -> bytes:
        """Return the content of the SET OF: the attributes, sorted, without tag and length."""
        return self.before + digest + self.after


@lru_cache(maxsize=1024)
def signed_attributes(certificate_sha256: bytes, confirmation: Confirmation, digest_size: int) -> SignedAttributes:
    """Return the attributes of a signer whose suite's digest has ``digest_size`` octets."""
    # The order of the attributes does not depend on the digest: each differs from the others in its first octets.
    placeholder = bytes(digest_size)
    digest = _attribute(_MESSAGE_DIGEST, tlv(OCTET_STRING, placeholder))
    listed = [
        _attribute(_CONTENT_TYPE, ID_DATA),
        digest,
        _attribute(_SIGNING_CERTIFICATE_V2, _signing_certificate(certificate_sha256)),
        _CONFIRMATIONS[confirmation],
    ]
    listed.sort()
    at = listed.index(digest)
    before = b"".join(listed[: at + 1])
    return SignedAttributes(before.removesuffix(placeholder), b"".join(listed[at + 1 :]))


def read_confirmation(attributes: bytes, certificate_sha256: bytes, digest: bytes) -> Confirmation:
    """Read the content of the SET OF signed attributes; nothing but what :func:`signed_attributes` makes passes.

    Args:
        attributes: the attributes without tag and length.
        certificate_sha256: of the signer's certificate.
        digest: of the content.

    Raises:
        DerError: with the id of what is wrong.
    """
    for confirmation, encoded in _CONFIRMATIONS.items():
        if encoded in attributes:  # a hint at what to compare with, no more
            expected = signed_attributes(certificate_sha256, confirmation, len(digest))
            if expected.encode(digest) == attributes:
                return confirmation
    raise DerError(_what_is_wrong(attributes, certificate_sha256, digest))


def _attribute(name: bytes, value: bytes) -> bytes:
    return tlv(SEQUENCE, name, tlv(SET, value))


def _signing_certificate(certificate_sha256: bytes) -> bytes:
    identifier = tlv(SEQUENCE, tlv(OCTET_STRING, certificate_sha256))
    return tlv(SEQUENCE, tlv(SEQUENCE, identifier))


_CONFIRMATIONS: Final[dict[Confirmation, bytes]] = {
    kind: _attribute(_CONFIRMATION, tlv(UTF8_STRING, kind.value.encode())) for kind in Confirmation
}


def _what_is_wrong(attributes: bytes, certificate_sha256: bytes, digest: bytes) -> str:
    listed = Reader(attributes).elements(SEQUENCE, "attributes_malformed")
    values: dict[bytes, bytes] = {}
    for attribute in listed:
        name, value = _name_and_value(attribute)
        if name in values:
            return "attribute_repeated"
        values[name] = value
    return _wrong_set(set(values)) or _wrong_value(values, certificate_sha256, digest) or "attributes_unsorted"


def _name_and_value(attribute: bytes) -> tuple[bytes, bytes]:
    parts = Reader(attribute).enter(SEQUENCE, "attributes_malformed")
    name = parts.element(OID, "attributes_malformed")
    values = parts.content(SET, "attributes_malformed")
    parts.close("attributes_malformed")
    if len(_split(values)) != 1:
        raise DerError("attribute_values")
    return name, values


def _split(values: bytes) -> list[bytes]:
    found, reader = [], Reader(values)
    while rest := reader.rest():
        found.append(reader.element(rest[0], "attributes_malformed"))
    return found


def _wrong_set(names: set[bytes]) -> str | None:
    expected = {_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_CERTIFICATE_V2, _CONFIRMATION}
    if names - expected:
        return "attribute_unknown"
    return "attribute_missing" if expected - names else None


def _wrong_value(values: dict[bytes, bytes], certificate_sha256: bytes, digest: bytes) -> str | None:
    expected = {
        "attribute_content_type": (_CONTENT_TYPE, ID_DATA),
        "message_digest": (_MESSAGE_DIGEST, tlv(OCTET_STRING, digest)),
        "certificate_hash": (_SIGNING_CERTIFICATE_V2, _signing_certificate(certificate_sha256)),
    }
    for problem, (name, value) in expected.items():
        if values[name] != value:
            return problem
    known = [tlv(UTF8_STRING, kind.value.encode()) for kind in Confirmation]
    return None if values[_CONFIRMATION] in known else "confirmation_unknown"
