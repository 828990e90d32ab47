"""Public keys: as a token returns them, as SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), and as cryptography objects.

The key type decides the form everywhere in the project, so a new key type is added here and in
:mod:`ushield_hw.crypto.algorithms`. A worker process imports this module, so it imports little at the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ushield_hw.crypto.algorithms import CURVES, Curve, KeyKind
from ushield_hw.crypto.der import BIT_STRING, SEQUENCE, DerError, Reader, oid, tlv

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from ushield_hw.crypto.private_key import CertifiedKey

_MALFORMED: Final = "malformed"
_EC_PUBLIC_KEY: Final = oid("1.2.840.10045.2.1")
_RSA: Final = tlv(SEQUENCE, oid("1.2.840.113549.1.1.1"), b"\x05\x00")
_OF_CURVE: Final = {tlv(SEQUENCE, _EC_PUBLIC_KEY, curve.oid): (kind, curve) for kind, curve in CURVES.items()}
_UNCOMPRESSED: Final = b"\x04"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key as a token returns it.

    Attributes:
        kind: the key type.
        point: EC: the uncompressed point.
        modulus: RSA: the modulus, big-endian.
        exponent: RSA: the public exponent, big-endian.
    """

    kind: KeyKind
    point: bytes = b""
    modulus: bytes = b""
    exponent: bytes = b""


def kind_and_bits(spki: bytes) -> tuple[KeyKind | None, int]:
    """Return type and length of a key in bits; (None, 0) for a type that is not allowed in signed orders.

    Args:
        spki: the SubjectPublicKeyInfo, DER.

    Raises:
        DerError: ``malformed``.
    """
    algorithm, bits = _parts(spki)
    if algorithm == _RSA:
        return KeyKind.RSA, _modulus(_octets(bits)).bit_length()
    kind, curve = _OF_CURVE.get(algorithm, (None, None))
    if curve is None or len(bits) != 1 + curve.point_octets or not bits.startswith(b"\0" + _UNCOMPRESSED):
        return None, 0
    return kind, curve.bits


def comparable(spki: bytes, kind: KeyKind | None) -> bytes | None:
    """Return a public key in the form in which keys are compared, that of ``KeyRecord.public``.

    Args:
        spki: the SubjectPublicKeyInfo, DER; for a curve also with other parameters that mean the same.
        kind: the key type; None: a type that is not allowed in signed orders.

    Returns:
        The modulus, big-endian, or the uncompressed point; None if it is not a key of this type.
    """
    if kind is None:
        return None
    try:
        key = _octets(_parts(spki)[1])
        if kind is not KeyKind.RSA:
            return ec_point(key, kind)
        modulus = _modulus(key)
    except DerError:
        return None
    return modulus.to_bytes((modulus.bit_length() + 7) // 8) if modulus > 0 else None


def ec_point(encoded: bytes, kind: KeyKind) -> bytes | None:
    """Return an elliptic curve point in uncompressed form, in which points are compared.

    Args:
        encoded: uncompressed, compressed or hybrid form of SEC 1 section 2.3.3 and ANSI X9.62 section 4.3.6.
        kind: the curve.

    Returns:
        The uncompressed point; None if it is not a valid encoding.
    """
    curve = CURVES[kind]
    whole, half = curve.point_octets, (curve.point_octets + 1) // 2
    form = encoded[:1]
    if len(encoded) == whole and form in (b"\x04", b"\x06", b"\x07"):
        return _UNCOMPRESSED + encoded[1:]
    if len(encoded) != half or form not in (b"\x02", b"\x03"):
        return None
    try:
        return _uncompressed(_ec_key(encoded, curve))
    except ValueError:
        return None


def key_of(public: PublicKey) -> CertifiedKey:
    """Return a token's public key as a ``cryptography`` object.

    Args:
        public: the public key.

    Raises:
        KeyMismatch: ``KEY_UNREADABLE``: the token returned an invalid key.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    from ushield_hw.crypto.parsing import Unreadable, reading
    from ushield_hw.errors import KeyMismatch

    try:
        with reading():
            if public.kind is KeyKind.RSA:
                numbers = rsa.RSAPublicNumbers(int.from_bytes(public.exponent), int.from_bytes(public.modulus))
                return numbers.public_key()
            return _ec_key(public.point, CURVES[public.kind])
    except Unreadable as error:
        raise KeyMismatch("KEY_UNREADABLE", kind=public.kind.value) from error


def spki_of(public: PublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo, DER.

    Args:
        public: the public key.

    Raises:
        KeyMismatch: ``KEY_UNREADABLE``: the token returned an invalid key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key_of(public).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_of(spki: bytes) -> PublicKey:
    """Return the public key in a SubjectPublicKeyInfo.

    Args:
        spki: the SubjectPublicKeyInfo, DER.

    Raises:
        ValueError: it is not a key that can sign orders.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from ushield_hw.crypto.parsing import Unreadable, reading

    try:
        with reading():
            key = load_der_public_key(spki)
    except Unreadable as error:
        raise ValueError("no key") from error
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        octets = [value.to_bytes((value.bit_length() + 7) // 8) for value in (numbers.n, numbers.e)]
        return PublicKey(KeyKind.RSA, modulus=octets[0], exponent=octets[1])
    kinds = {curve.name: kind for kind, curve in CURVES.items()}
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in kinds:
        raise ValueError("another kind of key")
    return PublicKey(kinds[key.curve.name], point=_uncompressed(key))


def _parts(spki: bytes) -> tuple[bytes, bytes]:
    """Return the AlgorithmIdentifier and the BIT STRING's content of a SubjectPublicKeyInfo.

    Raises:
        DerError: ``malformed``.
    """
    outer = Reader(spki)
    info = outer.enter(SEQUENCE, _MALFORMED)
    outer.close(_MALFORMED)
    algorithm = info.element(SEQUENCE, _MALFORMED)
    bits = info.content(BIT_STRING, _MALFORMED)
    info.close(_MALFORMED)
    return algorithm, bits


def _octets(bits: bytes) -> bytes:
    """Return the content of a BIT STRING without unused bits.

    Raises:
        DerError: ``malformed``.
    """
    if bits[:1] != b"\0":
        raise DerError(_MALFORMED)
    return bits[1:]


def _modulus(key: bytes) -> int:
    """Return the modulus of an RSAPublicKey (RFC 8017 appendix A.1.1).

    Raises:
        DerError: ``malformed``.
    """
    outer = Reader(key)
    numbers = outer.enter(SEQUENCE, _MALFORMED)
    outer.close(_MALFORMED)
    modulus = numbers.integer(_MALFORMED)
    numbers.integer(_MALFORMED)
    numbers.close(_MALFORMED)
    return modulus


def _ec_key(point: bytes, curve: Curve) -> ec.EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    known: ec.EllipticCurve = getattr(ec, curve.name.upper())()
    return ec.EllipticCurvePublicKey.from_encoded_point(known, point)


def _uncompressed(key: ec.EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
