"""Certificate fields for signing and strict reading, parsed without a library."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from ushield_hw.cms import names
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.der import (
    BIT_STRING,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    UTC_TIME,
    DerError,
    Reader,
    integer,
    oid,
    tlv,
)
from ushield_hw.crypto.public_key import kind_and_bits
from ushield_hw.errors import InputError

_MALFORMED: Final = "malformed"
_BOOLEAN: Final = 0x01
_VERSION: Final = 0xA0
_ISSUER_UNIQUE_ID, _SUBJECT_UNIQUE_ID = 0x81, 0x82
_EXTENSIONS: Final = 0xA3
_MOST_SERIAL_OCTETS: Final = 20

_V1, _V3 = 0, 2

_KEY_USAGE: Final = oid("2.5.29.15")[2:]
_BASIC_CONSTRAINTS: Final = oid("2.5.29.19")[2:]

_USES: Final = (
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


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The fields of an X.509 certificate. Its signature and trust are not checked.

    Attributes:
        der: The certificate.
        issuer: The issuer's name, DER.
        subject: The subject's name, DER.
        serial: The serial number.
        issuer_and_serial: Both as CMS IssuerAndSerialNumber, DER.
        not_before: The start of validity, timezone-aware.
        not_after: The end of validity, timezone-aware.
        spki: The SubjectPublicKeyInfo, DER.
        key: The kind of key; None for a kind not allowed in signed orders.
        key_bits: The size of the curve or of the RSA modulus; 0 without ``key``.
        key_usage: The names in RFC 5280 (``nonRepudiation``); None without the extension.
        is_ca: Whether basicConstraints states that it is a CA.
        sha256: The digest of ``der``.
        version: 1 or 3. A version 1 certificate has no extensions and cannot state a key usage.
    """

    der: bytes = field(repr=False)
    issuer: bytes
    subject: bytes
    serial: int
    issuer_and_serial: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    spki: bytes = field(repr=False)
    key: KeyKind | None
    key_bits: int
    key_usage: frozenset[str] | None
    is_ca: bool
    sha256: bytes
    version: int

    @classmethod
    def read(cls, der: bytes) -> CertificateFacts:
        """Parse a certificate.

        Args:
            der: The certificate, DER.

        Raises:
            InputError: ``CERTIFICATE_MALFORMED``: it is not a certificate in DER with exactly one of every field.
        """
        try:
            return _read(der)
        except DerError as broken:
            raise InputError("CERTIFICATE_MALFORMED") from broken

    @property
    def serial_hex(self) -> str:
        """The serial number in lower-case hex, without leading zeros."""
        return f"{self.serial:x}"

    def subject_text(self) -> str:
        """Return the subject in RFC 4514 form.

        Raises:
            InputError: ``CERTIFICATE_MALFORMED``: it is not a valid name.
        """
        return _name_text(self.subject)

    def issuer_text(self) -> str:
        """Return the issuer in RFC 4514 form.

        Raises:
            InputError: ``CERTIFICATE_MALFORMED``: it is not a valid name.
        """
        return _name_text(self.issuer)

    def __repr__(self) -> str:
        return f"<CertificateFacts serial={self.serial_hex}>"


def _name_text(name: bytes) -> str:
    try:
        return names.text(name)
    except DerError as broken:
        raise InputError("CERTIFICATE_MALFORMED") from broken


@lru_cache(maxsize=256)  # every enumeration reads the same certificates
def _read(der: bytes) -> CertificateFacts:
    outer = Reader(der)
    certificate = outer.enter(SEQUENCE, _MALFORMED)
    outer.close(_MALFORMED)
    tbs = certificate.enter(SEQUENCE, _MALFORMED)
    signed_with = certificate.element(SEQUENCE, _MALFORMED)
    _octets(certificate.content(BIT_STRING, _MALFORMED))
    certificate.close(_MALFORMED)
    return _read_fields(der, tbs, signed_with)


def _read_fields(der: bytes, tbs: Reader, signed_with: bytes) -> CertificateFacts:
    version = _version(tbs)
    serial = tbs.integer(_MALFORMED)
    if serial.bit_length() > 8 * _MOST_SERIAL_OCTETS:
        raise DerError(_MALFORMED)
    tbs.constant(signed_with, _MALFORMED)
    issuer = tbs.element(SEQUENCE, _MALFORMED)
    not_before, not_after = _validity(tbs.enter(SEQUENCE, _MALFORMED))
    subject = tbs.element(SEQUENCE, _MALFORMED)
    spki = tbs.element(SEQUENCE, _MALFORMED)
    key, key_bits = kind_and_bits(spki)
    extensions = _extensions(tbs, version)
    return CertificateFacts(
        der=der,
        issuer=issuer,
        subject=subject,
        serial=serial,
        issuer_and_serial=tlv(SEQUENCE, issuer, integer(serial)),
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        key=key,
        key_bits=key_bits,
        key_usage=_key_usage(extensions.get(_KEY_USAGE)),
        is_ca=_is_ca(extensions.get(_BASIC_CONSTRAINTS)),
        sha256=hashlib.sha256(der).digest(),
        version=version + 1,
    )


def _version(tbs: Reader) -> int:
    if not tbs.sees(_VERSION):
        return _V1
    inner = tbs.enter(_VERSION, _MALFORMED)
    version = inner.integer(_MALFORMED)
    inner.close(_MALFORMED)
    if version != _V3:  # DER omits the default, version 1; version 2 is obsolete, and cryptography refuses it
        raise DerError(_MALFORMED)
    return version


def _validity(times: Reader) -> tuple[datetime, datetime]:
    not_before, not_after = read_time(times), read_time(times)
    times.close(_MALFORMED)
    return not_before, not_after


def read_time(times: Reader) -> datetime:
    """Return the next Time (RFC 5280 section 4.1.2.5), timezone-aware, and advance.

    Raises:
        DerError: ``malformed``: it is not a valid time.
    """
    if times.sees(UTC_TIME):
        digits = times.content(UTC_TIME, _MALFORMED)
        digits = (b"19" if digits >= b"50" else b"20") + digits
    else:
        digits = times.content(GENERALIZED_TIME, _MALFORMED)
    if len(digits) != len(b"YYYYMMDDHHMMSSZ") or not digits[:-1].isdigit() or not digits.endswith(b"Z"):
        raise DerError(_MALFORMED)
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(4, 14, 2))
    try:
        return datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as broken:
        raise DerError(_MALFORMED) from broken


def _octets(bits: bytes) -> bytes:
    """Return the content of a BIT STRING without unused bits."""
    if bits[:1] != b"\x00":
        raise DerError(_MALFORMED)
    return bits[1:]


def _extensions(tbs: Reader, version: int) -> dict[bytes, bytes]:
    """Return the values of the extensions by OID content; each may occur once (RFC 5280)."""
    for unique_id in (_ISSUER_UNIQUE_ID, _SUBJECT_UNIQUE_ID):
        if version > _V1 and tbs.sees(unique_id):
            tbs.content(unique_id, _MALFORMED)
    found: dict[bytes, bytes] = {}
    if version > _V1 and tbs.sees(_EXTENSIONS):
        wrapper = tbs.enter(_EXTENSIONS, _MALFORMED)
        listed = wrapper.enter(SEQUENCE, _MALFORMED)
        wrapper.close(_MALFORMED)
        while listed.rest():
            _extension(listed.enter(SEQUENCE, _MALFORMED), found)
    tbs.close(_MALFORMED)
    return found


def _extension(extension: Reader, found: dict[bytes, bytes]) -> None:
    name = extension.content(OID, _MALFORMED)
    if extension.sees(_BOOLEAN):  # critical; DER omits the default, false
        extension.constant(b"\x01\x01\xff", _MALFORMED)
    value = extension.content(OCTET_STRING, _MALFORMED)
    extension.close(_MALFORMED)
    if name in found:
        raise DerError(_MALFORMED)
    found[name] = value


def _key_usage(value: bytes | None) -> frozenset[str] | None:
    if value is None:
        return None
    outer = Reader(value)
    bits = outer.content(BIT_STRING, _MALFORMED)
    outer.close(_MALFORMED)
    unused, octets = bits[:1], bits[1:]
    if not octets or unused > b"\x07" or octets[-1] & ((1 << unused[0]) - 1):
        raise DerError(_MALFORMED)
    is_set = f"{int.from_bytes(octets, 'big'):0{8 * len(octets)}b}"
    return frozenset(name for name, bit in zip(_USES, is_set, strict=False) if bit == "1")


def _is_ca(value: bytes | None) -> bool:
    if value is None:
        return False
    outer = Reader(value)
    constraints = outer.enter(SEQUENCE, _MALFORMED)
    outer.close(_MALFORMED)
    is_ca = constraints.sees(_BOOLEAN)
    if is_ca:  # DER omits the default, false
        constraints.constant(b"\x01\x01\xff", _MALFORMED)
    if constraints.sees(INTEGER) and constraints.integer(_MALFORMED) and not is_ca:  # pathLenConstraint
        raise DerError(_MALFORMED)
    constraints.close(_MALFORMED)
    return is_ca
