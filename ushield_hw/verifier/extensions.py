"""Parsers for certificate extensions in DER (RFC 5280 section 4.2), as far as path validation uses them.

Each parser raises ``DerError`` on malformed input. A certificate with a malformed extension is rejected even if the
extension is not relevant for the path, as openssl does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ushield_hw.crypto.der import BIT_STRING, INTEGER, OCTET_STRING, OID, SEQUENCE, DerError, Reader, oid

_MALFORMED: Final = "malformed"
_BOOLEAN, _NULL = 0x01, 0x05

GeneralName = tuple[int, bytes]
"""Tag and content of a GeneralName: 0x82 is dNSName, 0xa4 directoryName…"""

DIRECTORY: Final = 0xA4
_NAME_TAGS: Final = frozenset({0xA0, 0x81, 0x82, 0xA3, DIRECTORY, 0xA5, 0x86, 0x87, 0x88})

ANY_POLICY: Final = oid("2.5.29.32.0")[2:]
ALL_REASONS: Final = 0x1FE
"""Bits 1 to 8 of ReasonFlags, bit n as ``1 << n``; bit 0 is unused."""


def of(dotted: str) -> bytes:
    """Return the content of an OBJECT IDENTIFIER, which is the key for extensions in this package."""
    return oid(dotted)[2:]


SUBJECT_KEY_ID: Final = of("2.5.29.14")
KEY_USAGE: Final = of("2.5.29.15")
ALT_NAMES: Final = of("2.5.29.17")
ISSUER_ALT_NAMES: Final = of("2.5.29.18")
BASIC_CONSTRAINTS: Final = of("2.5.29.19")
NAME_CONSTRAINTS: Final = of("2.5.29.30")
CRL_POINTS: Final = of("2.5.29.31")
POLICIES: Final = of("2.5.29.32")
POLICY_MAPPINGS: Final = of("2.5.29.33")
AUTHORITY_KEY_ID: Final = of("2.5.29.35")
POLICY_CONSTRAINTS: Final = of("2.5.29.36")
EXTENDED_KEY_USAGE: Final = of("2.5.29.37")
FRESHEST_CRL: Final = of("2.5.29.46")
INHIBIT_ANY_POLICY: Final = of("2.5.29.54")
AUTHORITY_INFORMATION: Final = of("1.3.6.1.5.5.7.1.1")
NETSCAPE_TYPE: Final = of("2.16.840.1.113730.1.1")

# Extensions that change what a certificate may be used for and that are not implemented here: IP address and AS number
# resources (RFC 3779), proxy certificates (RFC 3820).
NOT_FOR_PAYING: Final = frozenset(of(f"1.3.6.1.5.5.7.1.{arc}") for arc in (7, 8, 14))


@dataclass(frozen=True, slots=True)
class AuthorityKeyId:
    """The key of the issuer that signed (section 4.2.1.1); absent fields are None."""

    key: bytes | None
    issuer: tuple[GeneralName, ...]
    serial: bytes | None


@dataclass(frozen=True, slots=True)
class NameConstraints:
    """NameConstraints (section 4.2.1.10); an absent list is empty."""

    permitted: tuple[GeneralName, ...]
    excluded: tuple[GeneralName, ...]


@dataclass(frozen=True, slots=True)
class PolicyConstraints:
    """PolicyConstraints (section 4.2.1.11): number of certificates before each takes effect; None: never."""

    explicit: int | None
    no_mapping: int | None


@dataclass(frozen=True, slots=True)
class CrlPoint:
    """A CRL distribution point (section 4.2.1.13).

    Attributes:
        names: its full names; a name relative to the CRL issuer is kept with its tag 0xA1. None: no name.
        reasons: the reasons that its CRL covers.
        issuer: the issuer of its CRL, if that is not the certificate's issuer.
    """

    names: frozenset[GeneralName] | None
    reasons: int
    issuer: tuple[GeneralName, ...]


def _whole(value: bytes, tag: int = SEQUENCE) -> Reader:
    outer = Reader(value)
    inside = outer.enter(tag, _MALFORMED)
    outer.close(_MALFORMED)
    return inside


def _single(value: bytes, tag: int) -> bytes:
    outer = Reader(value)
    content = outer.content(tag, _MALFORMED)
    outer.close(_MALFORMED)
    return content


def general_names(listed: Reader) -> tuple[GeneralName, ...]:
    """Return all remaining elements as GeneralNames; at least one is required."""
    found = []
    while listed.rest():
        found.append(_general_name(listed))
    if not found:
        raise DerError(_MALFORMED)
    return tuple(found)


def _general_name(listed: Reader) -> GeneralName:
    tag, content = listed.any(_MALFORMED)
    if tag not in _NAME_TAGS:
        raise DerError(_MALFORMED)
    if tag == DIRECTORY:
        _single(content, SEQUENCE)
    return tag, content


def alt_names(value: bytes) -> tuple[GeneralName, ...]:
    """Parse SubjectAltName or IssuerAltName."""
    return general_names(_whole(value))


def key_id(value: bytes) -> bytes:
    """Parse SubjectKeyIdentifier."""
    return _single(value, OCTET_STRING)


def authority_key_id(value: bytes) -> AuthorityKeyId:
    """Parse AuthorityKeyIdentifier; issuer and serial number must both be present or both be absent."""
    inside = _whole(value)
    key = inside.content(0x80, _MALFORMED) if inside.sees(0x80) else None
    issuer = general_names(inside.enter(0xA1, _MALFORMED)) if inside.sees(0xA1) else ()
    serial = inside.content(0x82, _MALFORMED) if inside.sees(0x82) else None
    inside.close(_MALFORMED)
    if bool(issuer) != (serial is not None):
        raise DerError(_MALFORMED)
    return AuthorityKeyId(key, issuer, serial)


def path_length(value: bytes) -> int | None:
    """Parse BasicConstraints: return pathLenConstraint, or None if there is no limit."""
    inside = _whole(value)
    if inside.sees(_BOOLEAN):
        inside.constant(b"\x01\x01\xff", _MALFORMED)
    return inside.integer(_MALFORMED) if inside.sees(INTEGER) else None


def name_constraints(value: bytes) -> NameConstraints:
    """Parse NameConstraints; minimum and maximum fields are rejected (unused by section 4.2.1.10)."""
    inside = _whole(value)
    permitted = _subtrees(inside.enter(0xA0, _MALFORMED)) if inside.sees(0xA0) else ()
    excluded = _subtrees(inside.enter(0xA1, _MALFORMED)) if inside.sees(0xA1) else ()
    inside.close(_MALFORMED)
    if not permitted and not excluded:
        raise DerError(_MALFORMED)
    return NameConstraints(permitted, excluded)


def _subtrees(listed: Reader) -> tuple[GeneralName, ...]:
    found = []
    while listed.rest():
        subtree = listed.enter(SEQUENCE, _MALFORMED)
        found.append(_general_name(subtree))
        subtree.close(_MALFORMED)
    if not found:
        raise DerError(_MALFORMED)
    return tuple(found)


def policies(value: bytes) -> frozenset[bytes]:
    """Parse CertificatePolicies; duplicates are rejected."""
    inside, found = _whole(value), set()
    while inside.rest():
        information = inside.enter(SEQUENCE, _MALFORMED)
        policy = information.content(OID, _MALFORMED)
        if information.rest():
            information.enter(SEQUENCE, _MALFORMED)
            information.close(_MALFORMED)
        if policy in found:
            raise DerError(_MALFORMED)
        found.add(policy)
    if not found:
        raise DerError(_MALFORMED)
    return frozenset(found)


def policy_mappings(value: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Parse PolicyMappings into pairs of issuer and subject policy; ``anyPolicy`` is rejected (section 6.1.4 a)."""
    inside, found = _whole(value), []
    while inside.rest():
        pair = inside.enter(SEQUENCE, _MALFORMED)
        found.append((pair.content(OID, _MALFORMED), pair.content(OID, _MALFORMED)))
        pair.close(_MALFORMED)
    if not found or any(ANY_POLICY in pair for pair in found):
        raise DerError(_MALFORMED)
    return tuple(found)


def policy_constraints(value: bytes) -> PolicyConstraints:
    """Parse PolicyConstraints; at least one field must be present."""
    inside = _whole(value)
    explicit = _count(inside.content(0x80, _MALFORMED)) if inside.sees(0x80) else None
    no_mapping = _count(inside.content(0x81, _MALFORMED)) if inside.sees(0x81) else None
    inside.close(_MALFORMED)
    if explicit is None and no_mapping is None:
        raise DerError(_MALFORMED)
    return PolicyConstraints(explicit, no_mapping)


def count(value: bytes) -> int:
    """Parse a non-negative INTEGER: InhibitAnyPolicy, CRLNumber."""
    return _count(_single(value, INTEGER))


def _count(content: bytes) -> int:
    if not content or content[0] & 0x80:
        raise DerError(_MALFORMED)
    return int.from_bytes(content, "big")


def crl_points(value: bytes) -> tuple[CrlPoint, ...]:
    """Parse CRLDistributionPoints or FreshestCRL."""
    inside, found = _whole(value), []
    while inside.rest():
        found.append(_crl_point(inside.enter(SEQUENCE, _MALFORMED)))
    if not found:
        raise DerError(_MALFORMED)
    return tuple(found)


def _crl_point(point: Reader) -> CrlPoint:
    named = point_names(point.enter(0xA0, _MALFORMED)) if point.sees(0xA0) else None
    limited = reasons(point.content(0x81, _MALFORMED)) if point.sees(0x81) else ALL_REASONS
    issuer = general_names(point.enter(0xA2, _MALFORMED)) if point.sees(0xA2) else ()
    point.close(_MALFORMED)
    return CrlPoint(named, limited, issuer)


def point_names(point: Reader) -> frozenset[GeneralName]:
    """Parse a DistributionPointName."""
    if point.sees(0xA0):
        found = frozenset(general_names(point.enter(0xA0, _MALFORMED)))
    else:
        found = frozenset({(0xA1, point.content(0xA1, _MALFORMED))})
    point.close(_MALFORMED)
    return found


def reasons(content: bytes) -> int:
    """Parse ReasonFlags: bit n of the BIT STRING as ``1 << n``."""
    unused, octets = content[:1], content[1:]
    if not octets or unused > b"\x07" or octets[-1] & ((1 << unused[0]) - 1):
        raise DerError(_MALFORMED)
    bits = f"{int.from_bytes(octets, 'big'):0{8 * len(octets)}b}"
    return sum(1 << n for n, bit in enumerate(bits) if bit == "1") & ALL_REASONS


def _uses(value: bytes) -> tuple[bytes, ...]:
    inside, found = _whole(value), []
    while inside.rest():
        found.append(inside.content(OID, _MALFORMED))
    if not found:
        raise DerError(_MALFORMED)
    return tuple(found)


def _access(value: bytes) -> None:
    inside = _whole(value)
    if not inside.rest():
        raise DerError(_MALFORMED)
    while inside.rest():
        description = inside.enter(SEQUENCE, _MALFORMED)
        description.content(OID, _MALFORMED)
        _general_name(description)
        description.close(_MALFORMED)


def _bits(value: bytes) -> None:
    content = _single(value, BIT_STRING)
    if not content or content[0] > 7 or (content[0] and (len(content) == 1 or content[-1] & ((1 << content[0]) - 1))):  # noqa: PLR2004
        raise DerError(_MALFORMED)


READERS: Final[Mapping[bytes, Callable[[bytes], object]]] = {
    SUBJECT_KEY_ID: key_id,
    ALT_NAMES: alt_names,
    ISSUER_ALT_NAMES: alt_names,
    BASIC_CONSTRAINTS: path_length,
    NAME_CONSTRAINTS: name_constraints,
    CRL_POINTS: crl_points,
    POLICIES: policies,
    POLICY_MAPPINGS: policy_mappings,
    AUTHORITY_KEY_ID: authority_key_id,
    POLICY_CONSTRAINTS: policy_constraints,
    EXTENDED_KEY_USAGE: _uses,
    FRESHEST_CRL: crl_points,
    INHIBIT_ANY_POLICY: count,
    AUTHORITY_INFORMATION: _access,
    NETSCAPE_TYPE: _bits,
}
"""Parsers by extension: those evaluated here, and those that openssl rejects when malformed."""
