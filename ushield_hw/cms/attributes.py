"""The five signed attributes of a CAdES signed order: writing, and exact reading.

CAdES-B-B requires content-type, message-digest (RFC 5652), signing-time (RFC 5652 section 11.3) and
signing-certificate-v2 (RFC 5035); the fifth is specific to this library and states how the user confirmed. The
certificate is identified only by its SHA-256 digest: SHA-256 is the default, which DER omits, and issuer and serial
number are in the SignerInfo.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from ushield_hw.crypto.der import (
    GENERALIZED_TIME,
    OCTET_STRING,
    OID,
    SEQUENCE,
    SET,
    UTC_TIME,
    UTF8_STRING,
    DerError,
    Reader,
    oid,
    tlv,
)

# A GUID under Microsoft's arc for GUIDs, split into arcs below 2^31: parsers with 32-bit arcs (GnuTLS, Go) accept
# it, unlike the 128-bit arc of 2.25.
CONFIRMATION_OID: Final = "1.2.840.113556.1.8000.2554.23560.9650.58801.19061.36438.11991521.15198748"

ID_DATA: Final = oid("1.2.840.113549.1.7.1")

_CONTENT_TYPE: Final = oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST: Final = oid("1.2.840.113549.1.9.4")
_SIGNING_TIME: Final = oid("1.2.840.113549.1.9.5")
_SIGNING_CERTIFICATE_V2: Final = oid("1.2.840.113549.1.9.16.2.47")
_CONFIRMATION: Final = oid(CONFIRMATION_OID)
_UTC_YEARS: Final = range(1950, 2050)  # RFC 5652 section 11.3: these must be a UTCTime, others a GeneralizedTime
TIME_SIZES: Final = (15, 17)  # of a UTCTime and a GeneralizedTime, with tag and length
_UTC_TAG: Final = bytes((UTC_TIME,))
_PIVOT: Final = "50"  # for the two-digit year of a UTCTime


class Confirmation(StrEnum):
    """How the user confirmed the order, as stated by the signer."""

    BUTTON = "button"  # pressed a button on the token, which displayed the order
    PINPAD = "pinpad"  # entered the PIN on the token, which displayed the order
    TOUCH = "touch"  # touched the token; the host displayed the order
    HOST = "host"  # confirmed on the host, which displayed the order
    NONE = "none"  # unattended: nobody confirmed


@dataclass(frozen=True, slots=True)
class SignedAttributes:
    """The encoded signed attributes of one signer, except the signing time and the digest of the content.

    Attributes:
        before_time: The bytes before the signing time.
        before_digest: The bytes between signing time and digest.
        after_digest: The bytes after the digest.
    """

    before_time: bytes
    before_digest: bytes
    after_digest: bytes

    def encode(self, digest: bytes, time: bytes) -> bytes:
        """Return the content of the SET OF: the sorted attributes, without tag and length.

        Args:
            digest: The digest of the content.
            time: The encoded signing time.
        """
        return b"".join((self.before_time, time, self.before_digest, digest, self.after_digest))


@lru_cache(maxsize=1024)
def signed_attributes(
    certificate_sha256: bytes, confirmation: Confirmation, digest_size: int, time_size: int
) -> SignedAttributes:
    """Return the signed attributes of a signer for given sizes of digest and signing time.

    Args:
        certificate_sha256: The SHA-256 of the signer's certificate.
        confirmation: How the user confirmed.
        digest_size: The size of the digest in octets.
        time_size: The size of the encoded signing time in octets.
    """
    # The sort order does not depend on digest and time: the attributes differ in their first octets.
    digest_place, time_place = bytes(digest_size), bytes(time_size)
    digest, time = _attribute(_MESSAGE_DIGEST, tlv(OCTET_STRING, digest_place)), _attribute(_SIGNING_TIME, time_place)
    listed = [
        _attribute(_CONTENT_TYPE, ID_DATA),
        time,
        digest,
        _attribute(_SIGNING_CERTIFICATE_V2, _signing_certificate(certificate_sha256)),
        _CONFIRMATIONS[confirmation],
    ]
    listed.sort()
    at_time, at_digest = listed.index(time), listed.index(digest)  # time sorts first: the digest attribute is longer
    return SignedAttributes(
        b"".join(listed[: at_time + 1]).removesuffix(time_place),
        b"".join(listed[at_time + 1 : at_digest + 1]).removesuffix(digest_place),
        b"".join(listed[at_digest + 1 :]),
    )


def encode_time(moment: datetime) -> bytes:
    """Return a signing time as in RFC 5652 section 11.3, truncated to seconds.

    Args:
        moment: A timezone-aware time.
    """
    return _encoded_second(moment.replace(microsecond=0))


@lru_cache(maxsize=64)
def _encoded_second(second: datetime) -> bytes:
    utc = second.astimezone(UTC)
    if utc.year in _UTC_YEARS:
        return tlv(UTC_TIME, f"{utc:%y%m%d%H%M%S}Z".encode())
    return tlv(GENERALIZED_TIME, f"{utc.year:04}{utc:%m%d%H%M%S}Z".encode())


@lru_cache(maxsize=1024)
def read_time(encoded: bytes) -> datetime:
    """Return the time that an encoded signing time stands for.

    Args:
        encoded: The complete element.

    Raises:
        DerError: ``signing_time``: it is not the output of :func:`encode_time`.
    """
    text = encoded[2:].decode("ascii", "replace")
    if encoded[:1] == _UTC_TAG:
        text = ("20" if text < _PIVOT else "19") + text
    try:
        found = datetime.fromisoformat(f"{text[:8]}T{text[8:]}")  # accepts many forms; the comparison below only one
        if encode_time(found) == encoded:
            return found
    except (ValueError, OverflowError) as wrong:
        raise DerError("signing_time") from wrong
    raise DerError("signing_time")


def stated_time(data: bytes, at: int = 0) -> datetime:
    """Return the first signing time in ``data`` from ``at`` on, without checking the bytes around it.

    Args:
        data: The bytes to search.
        at: Where to start.

    Raises:
        DerError: ``signing_time``: there is none, or its encoding is invalid.
    """
    found = data.find(_SIGNING_TIME, at)
    start = found + len(_SIGNING_TIME) + 2  # tag and length of the SET OF values
    if found < 0 or start + 1 >= len(data):
        raise DerError("signing_time")
    return read_time(data[start : start + 2 + data[start + 1]])


def read_attributes(attributes: bytes, certificate_sha256: bytes, digest: bytes) -> tuple[Confirmation, datetime]:
    """Parse the content of the SET OF signed attributes. Only the output of :func:`signed_attributes` is accepted.

    Args:
        attributes: The attributes without tag and length.
        certificate_sha256: The SHA-256 of the signer's certificate.
        digest: The digest of the content.

    Returns:
        How the user confirmed, and the signing time, both as stated by the signer.

    Raises:
        DerError: With the id of the problem.
    """
    with suppress(DerError):
        time = stated_time(attributes)  # only selects what to compare with, like the confirmation
        encoded_time = encode_time(time)
        for confirmation, encoded in _CONFIRMATIONS.items():
            if encoded in attributes:
                expected = signed_attributes(certificate_sha256, confirmation, len(digest), len(encoded_time))
                if expected.encode(digest, encoded_time) == attributes:
                    return confirmation, time
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
    expected = {_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_TIME, _SIGNING_CERTIFICATE_V2, _CONFIRMATION}
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
    read_time(values[_SIGNING_TIME])
    known = [tlv(UTF8_STRING, kind.value.encode()) for kind in Confirmation]
    return None if values[_CONFIRMATION] in known else "confirmation_unknown"
