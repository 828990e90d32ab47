"""A CRL that is parsed and indexed once when it is loaded (RFC 5280 section 5).

The index keeps the lookup cost independent of the size (half a million entries). cryptography is not used here because
it scans the whole list for each serial number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from ushield_hw.cms import names
from ushield_hw.cms.certificate import read_time
from ushield_hw.cms.names import Canonical
from ushield_hw.crypto.der import BIT_STRING, INTEGER, OCTET_STRING, OID, SEQUENCE, DerError, Reader
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.extensions import ALL_REASONS, GeneralName, of

_MALFORMED: Final = "malformed"
_BOOLEAN, _ENUMERATED, _EXTENSIONS = 0x01, 0x0A, 0xA0
_TRUE: Final = b"\x01\x01\xff"
_TIMES: Final = (0x17, 0x18)
_V2: Final = 1
_LONG_FORM: Final = 0x80

_NUMBER: Final = of("2.5.29.20")
_DELTA: Final = of("2.5.29.27")
_POINT: Final = of("2.5.29.28")
_REASON: Final = of("2.5.29.21")
_INVALID_SINCE: Final = of("2.5.29.24")
_CERTIFICATE_ISSUER: Final = of("2.5.29.29")

# Extensions that may be critical in a CRL. CRLNumber must not be critical (section 5.2.3).
_MAY_BE_CRITICAL: Final = frozenset({ext.AUTHORITY_KEY_ID, _DELTA, _POINT})

_REASONS: Final = {
    1: "keyCompromise",
    2: "cACompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    6: "certificateHold",
    8: "removeFromCRL",
    9: "privilegeWithdrawn",
    10: "aACompromise",
}
UNSPECIFIED: Final = "unspecified"
HOLD: Final = "certificateHold"
REMOVED: Final = "removeFromCRL"

# DER prefixes for the fast path: an entry whose only extension is a reason code, up to the reason itself. Nearly all
# entries have this form.
_UTC_TIME: Final = b"\x17\x0d"
_ZULU: Final = ord("Z")
_PADDING: Final = (0x00, 0xFF)
_PLAIN_REASON: Final = bytes.fromhex("300c300a0603551d1504030a01")


class Entry(NamedTuple):
    """A revoked certificate on the list."""

    revoked: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Scope:
    """The scope of a CRL (IssuingDistributionPoint, section 5.2.5).

    Attributes:
        names: names of its distribution point; None: not limited to one.
        of_users: covers end-entity certificates.
        of_cas: covers CA certificates.
        reasons: the reasons it covers.
        is_indirect: lists certificates of other issuers too.
    """

    names: frozenset[GeneralName] | None = None
    of_users: bool = True
    of_cas: bool = True
    reasons: int = ALL_REASONS
    is_indirect: bool = False


class Crl:
    """A parsed CRL. Immutable.

    Attributes:
        issuer: the issuer's name in canonical form.
        issuer_der: the issuer's name as encoded.
        this_update: when it was issued.
        next_update: until when it is valid, or None.
        algorithm: the AlgorithmIdentifier of the signature, DER.
        signature: the signature octets.
        signed: the signed bytes (TBSCertList, DER).
        scope: the scope of the CRL.
        is_delta: whether it is a delta CRL.
        is_clear: whether neither the list nor an entry has an unknown critical extension.
        authority: the authority key identifier, or None.

    Args:
        der: the CRL, DER.

    Raises:
        DerError: it is not a CRL in DER.
    """

    scope: Scope
    is_clear: bool

    def __init__(self, der: bytes) -> None:
        outer = Reader(der)
        inside = outer.enter(SEQUENCE, _MALFORMED)
        outer.close(_MALFORMED)
        self.signed = inside.element(SEQUENCE, _MALFORMED)
        self.algorithm = inside.element(SEQUENCE, _MALFORMED)
        bits = inside.content(BIT_STRING, _MALFORMED)
        inside.close(_MALFORMED)
        if bits[:1] != b"\0":
            raise DerError(_MALFORMED)
        self.signature = bits[1:]
        fields = Reader(self.signed).enter(SEQUENCE, _MALFORMED)
        self._read_head(fields)
        entries = fields.content(SEQUENCE, _MALFORMED) if fields.sees(SEQUENCE) else b""
        self._read_extensions(fields)
        self._entries = entries
        try:
            self._index, clear = _indexed(entries, self.issuer, is_indirect=self.scope.is_indirect)
        except IndexError as broken:  # an entry is truncated
            raise DerError(_MALFORMED) from broken
        self.is_clear = self.is_clear and clear

    def _read_head(self, fields: Reader) -> None:
        self._has_version = fields.sees(INTEGER)
        if self._has_version and fields.integer(_MALFORMED) != _V2:
            raise DerError(_MALFORMED)
        fields.constant(self.algorithm, _MALFORMED)
        self.issuer_der = fields.element(SEQUENCE, _MALFORMED)
        self.issuer: Canonical = names.canonical(self.issuer_der)
        self.this_update = read_time(fields)
        self.next_update = read_time(fields) if any(fields.sees(tag) for tag in _TIMES) else None

    def _read_extensions(self, fields: Reader) -> None:
        found = {}
        if self._has_version and fields.sees(_EXTENSIONS):
            wrapper = fields.enter(_EXTENSIONS, _MALFORMED)
            found = _extensions(wrapper.enter(SEQUENCE, _MALFORMED))
            wrapper.close(_MALFORMED)
        fields.close(_MALFORMED)
        self.is_clear = all(not critical or name in _MAY_BE_CRITICAL for name, (critical, _) in found.items())
        values = {name: value for name, (_, value) in found.items()}
        for name in (_NUMBER, _DELTA):
            if name in values:
                ext.count(values[name])
        self.is_delta = _DELTA in values
        self.scope = _scope(values[_POINT]) if _POINT in values else Scope()
        said = values.get(ext.AUTHORITY_KEY_ID)
        self.authority = ext.authority_key_id(said) if said is not None else None

    def entry(self, serial: int, issuer: Canonical) -> Entry | None:
        """Return the entry for a certificate, or None if it is not listed.

        Raises:
            DerError: the entry is malformed.
        """
        at = self._index.get((serial, issuer) if issuer != self.issuer else serial)
        return None if at is None else _entry(Reader(self._entries, at).enter(SEQUENCE, _MALFORMED))


def _scope(value: bytes) -> Scope:
    outer = Reader(value)
    inside = outer.enter(SEQUENCE, _MALFORMED)
    outer.close(_MALFORMED)
    named = ext.point_names(inside.enter(0xA0, _MALFORMED)) if inside.sees(0xA0) else None
    users_only, cas_only = _flag(inside, 0x81), _flag(inside, 0x82)
    reasons = ext.reasons(inside.content(0x83, _MALFORMED)) if inside.sees(0x83) else ALL_REASONS
    indirect, attributes_only = _flag(inside, 0x84), _flag(inside, 0x85)
    inside.close(_MALFORMED)
    return Scope(named, not cas_only and not attributes_only, not users_only and not attributes_only, reasons, indirect)


def _flag(inside: Reader, tag: int) -> bool:
    if not inside.sees(tag):
        return False
    if inside.content(tag, _MALFORMED) != b"\xff":  # DER omits the default value false
        raise DerError(_MALFORMED)
    return True


def _extensions(listed: Reader) -> dict[bytes, tuple[bool, bytes]]:
    found: dict[bytes, tuple[bool, bytes]] = {}
    while listed.rest():
        extension = listed.enter(SEQUENCE, _MALFORMED)
        name, critical = extension.content(OID, _MALFORMED), extension.sees(_BOOLEAN)
        if critical:
            extension.constant(_TRUE, _MALFORMED)
        value = extension.content(OCTET_STRING, _MALFORMED)
        extension.close(_MALFORMED)
        if name in found:
            raise DerError(_MALFORMED)
        found[name] = critical, value
    return found


Index = dict[int | tuple[int, Canonical], int]


def _indexed(entries: bytes, issuer: Canonical, *, is_indirect: bool) -> tuple[Index, bool]:
    """Return the offset of each certificate's entry, and whether all critical entry extensions are known.

    A single loop that makes no parser calls for plain entries, because CRLs may have half a million of them.
    """
    index: Index = {}
    clear, owner, at, end = True, issuer, 0, len(entries)
    while at < end:
        begin = at
        if entries[at] != SEQUENCE or at + 4 > end:
            raise DerError(_MALFORMED)
        size, start = entries[at + 1], at + 2
        if size >= _LONG_FORM:
            start, size = _long(entries, at)
        at = start + size
        octets = entries[start + 1]
        if at > end or entries[start] != INTEGER or not 0 < octets < _LONG_FORM or start + 2 + octets > at:
            raise DerError(_MALFORMED)
        if octets > 1 and entries[start + 2] in _PADDING and _is_padded(entries, start + 2):
            raise DerError("not_der")
        serial = int.from_bytes(entries[start + 2 : start + 2 + octets], "big", signed=True)
        time = start + 2 + octets
        after = time + 15  # a plain UTCTime: 13 octets that end with Z
        if not (
            entries.startswith(_UTC_TIME, time)
            and entries[after - 1] == _ZULU
            and entries[time + 2 : after - 1].isdigit()
            and (after == at or (after + 14 == at and entries.startswith(_PLAIN_REASON, after)))
        ):
            known, named = _odd_entry(Reader(entries, begin, at).enter(SEQUENCE, _MALFORMED), is_indirect=is_indirect)
            clear, owner = clear and known, named or owner
        index[serial if owner is issuer or owner == issuer else (serial, owner)] = begin
    return index, clear


def _is_padded(entries: bytes, at: int) -> bool:
    """Return whether the first octet of an INTEGER is redundant padding."""
    return (entries[at] == 0) == (entries[at + 1] < _LONG_FORM)


def _long(entries: bytes, at: int) -> tuple[int, int]:
    """Return the start of the content and the size of an element with a long-form length."""
    count = entries[at + 1] - _LONG_FORM
    size = int.from_bytes(entries[at + 2 : at + 2 + count], "big")
    if size < _LONG_FORM or entries[at + 2] == 0:
        raise DerError("not_der")
    return at + 2 + count, size


def _odd_entry(entry: Reader, *, is_indirect: bool) -> tuple[bool, Canonical | None]:
    """Return whether the entry's critical extensions are known, and the certificate issuer from this entry on."""
    entry.content(INTEGER, _MALFORMED)
    read_time(entry)
    found = _extensions(entry.enter(SEQUENCE, _MALFORMED)) if entry.rest() else {}
    entry.close(_MALFORMED)
    known = {_REASON, _INVALID_SINCE} | ({_CERTIFICATE_ISSUER} if is_indirect else set())
    clear = all(not critical or name in known for name, (critical, _) in found.items())
    if _CERTIFICATE_ISSUER not in found or not is_indirect:
        return clear, None
    listed = ext.alt_names(found[_CERTIFICATE_ISSUER][1])
    named = [names.canonical(content) for tag, content in listed if tag == ext.DIRECTORY]
    return clear and len(named) == 1, named[0] if named else None


def _entry(entry: Reader) -> Entry:
    entry.content(INTEGER, _MALFORMED)
    revoked = read_time(entry)
    found = _extensions(entry.enter(SEQUENCE, _MALFORMED)) if entry.rest() else {}
    entry.close(_MALFORMED)
    return Entry(revoked, _reason(found[_REASON][1]) if _REASON in found else UNSPECIFIED)


def _reason(value: bytes) -> str:
    try:
        outer = Reader(value)
        content = outer.content(_ENUMERATED, _MALFORMED)
        outer.close(_MALFORMED)
    except DerError:
        return UNSPECIFIED
    return _REASONS.get(int.from_bytes(content, "big"), UNSPECIFIED)
