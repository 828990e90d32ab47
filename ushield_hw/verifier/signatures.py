"""Registry of the signature algorithms and keys accepted for certificates and CRLs.

Algorithms are keyed by their AlgorithmIdentifier, keys by their SubjectPublicKeyInfo, both DER. :func:`register` adds
an algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ushield_hw.crypto.algorithms import RSA_LEAST_BITS
from ushield_hw.crypto.der import BIT_STRING, OID, SEQUENCE, DerError, Reader, oid
from ushield_hw.crypto.parsing import Unreadable, reading

_MALFORMED: Final = "malformed"
_NULL: Final = b"\x05\x00"
_RSA_MOST_BITS: Final = 16384
_SALT_DEFAULT, _SALT_MOST = 20, 512

_RSA_KEYS: Final = frozenset((oid("1.2.840.113549.1.1.1")[2:], oid("1.2.840.113549.1.1.10")[2:]))
_MGF1: Final = oid("1.2.840.113549.1.1.8")[2:]
_EC_KEY: Final = oid("1.2.840.10045.2.1")[2:]
_OTHER_KEYS: Final = frozenset((oid("1.3.101.112")[2:], oid("1.3.101.113")[2:]))  # Ed25519, Ed448
_CURVES: Final = {
    oid("1.2.840.10045.3.1.7"),  # P-256
    oid("1.3.132.0.34"),  # P-384
    oid("1.3.132.0.35"),  # P-521
    oid("1.3.36.3.3.2.8.1.1.7"),  # brainpoolP256r1
    oid("1.3.36.3.3.2.8.1.1.11"),  # brainpoolP384r1
    oid("1.3.36.3.3.2.8.1.1.13"),  # brainpoolP512r1
}

_DIGESTS: Final = {
    oid("1.2.840.113549.2.5")[2:]: "MD5",
    oid("1.3.14.3.2.26")[2:]: "SHA1",
    oid("2.16.840.1.101.3.4.2.4")[2:]: "SHA224",
    oid("2.16.840.1.101.3.4.2.1")[2:]: "SHA256",
    oid("2.16.840.1.101.3.4.2.2")[2:]: "SHA384",
    oid("2.16.840.1.101.3.4.2.3")[2:]: "SHA512",
}
_WEAK: Final = frozenset({"MD5", "SHA1"})

Check = Callable[[bytes, bytes, bytes], bool]
"""Takes SubjectPublicKeyInfo, signature and message; returns whether the signature is valid. May raise any exception.
"""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A signature algorithm with its parameters.

    Attributes:
        weak: whether its digest is broken (MD5, SHA-1), so that a signature does not protect the content.
        check: verifies one signature.
    """

    weak: bool
    check: Check


Reads = Callable[[bytes], Algorithm | None]
"""Takes the parameters of an algorithm (DER, empty if absent); returns the algorithm, or None if unsupported."""

_known: Final[dict[bytes, Reads]] = {}


def register(dotted: str, reads: Reads, *, curve: str | None = None) -> None:
    """Register an algorithm.

    Args:
        dotted: the object identifier of its AlgorithmIdentifier.
        reads: parses its parameters.
        curve: the object identifier of the EC curve it is used with, if that is not supported yet.
    """
    _known[oid(dotted)[2:]] = reads
    if curve is not None:
        _CURVES.add(oid(curve))


@lru_cache(maxsize=256)
def algorithm(identifier: bytes) -> Algorithm | None:
    """Return the algorithm of an AlgorithmIdentifier (DER), or None if it is unsupported."""
    try:
        outer = Reader(identifier)
        inside = outer.enter(SEQUENCE, _MALFORMED)
        outer.close(_MALFORMED)
        reads = _known.get(inside.content(OID, _MALFORMED))
        return reads(inside.rest()) if reads is not None else None
    except DerError:
        return None


def is_right(spki: bytes, identifier: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether a signature is valid. A signature that cannot be checked counts as invalid.

    Args:
        spki: the public key, SubjectPublicKeyInfo, DER.
        identifier: the algorithm, AlgorithmIdentifier, DER.
        signature: the signature octets.
        message: the signed bytes.
    """
    found = algorithm(identifier)
    if found is None:
        return False
    try:
        with reading():
            return found.check(spki, signature, message)
    except Unreadable:
        return False


@lru_cache(maxsize=16384)
def key_problem(spki: bytes) -> str | None:
    """Return why a key is not accepted for signing certificates or CRLs, or None if it is.

    Returns:
        ``explicit_curve``: an EC key with explicit curve parameters, which RFC 5480 section 2.1.1 forbids because they
        can describe any curve; ``weak_key``; ``unknown_key``: no algorithm here uses such a key.
    """
    try:
        info = Reader(spki).enter(SEQUENCE, _MALFORMED)
        named = info.enter(SEQUENCE, _MALFORMED)
        family, parameters = named.content(OID, _MALFORMED), named.rest()
        key = info.content(BIT_STRING, _MALFORMED)[1:]
        if family in _RSA_KEYS:
            return _rsa_problem(key)
    except DerError:
        return "unknown_key"
    if family == _EC_KEY:
        return _curve_problem(parameters)
    return None if family in _OTHER_KEYS else "unknown_key"


def _rsa_problem(key: bytes) -> str | None:
    numbers = Reader(key).enter(SEQUENCE, _MALFORMED)
    bits, exponent = numbers.integer(_MALFORMED).bit_length(), numbers.integer(_MALFORMED)
    strong = RSA_LEAST_BITS <= bits <= _RSA_MOST_BITS and exponent % 2 and exponent > 1
    return None if strong else "weak_key"


def _curve_problem(parameters: bytes) -> str | None:
    if parameters[:1] == bytes((SEQUENCE,)):
        return "explicit_curve"
    return None if parameters in _CURVES else "weak_key"


# --- algorithms checked by cryptography -------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _key(spki: bytes) -> Any:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(spki)


def _verified(spki: bytes, signature: bytes, message: bytes, *how: Any) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        _key(spki).verify(signature, message, *how)
    except InvalidSignature:
        return False
    return True


def _digest(name: str) -> Any:
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, name)()


def _ecdsa(digest: str) -> Reads:
    def check(spki: bytes, signature: bytes, message: bytes) -> bool:
        from cryptography.hazmat.primitives.asymmetric import ec

        return _verified(spki, signature, message, ec.ECDSA(_digest(digest)))

    found = Algorithm(digest in _WEAK, check)
    return lambda parameters: None if parameters else found  # RFC 5758 section 3.2: parameters are absent


def _pkcs1(digest: str) -> Reads:
    def check(spki: bytes, signature: bytes, message: bytes) -> bool:
        from cryptography.hazmat.primitives.asymmetric import padding

        return _verified(spki, signature, message, padding.PKCS1v15(), _digest(digest))

    found = Algorithm(digest in _WEAK, check)
    return lambda parameters: found if parameters in (b"", _NULL) else None  # RFC 4055 section 5: absent or NULL


def _edwards(parameters: bytes) -> Algorithm | None:
    return None if parameters else Algorithm(False, _verified)


def _pss(parameters: bytes) -> Algorithm | None:
    """Parse RSASSA-PSS-params (RFC 4055 section 3.1)."""
    fields = Reader(parameters).enter(SEQUENCE, _MALFORMED)
    digest = _named_digest(fields.enter(0xA0, _MALFORMED)) if fields.sees(0xA0) else "SHA1"
    mask = _mask(fields.enter(0xA1, _MALFORMED)) if fields.sees(0xA1) else "SHA1"
    salt = fields.enter(0xA2, _MALFORMED).integer(_MALFORMED) if fields.sees(0xA2) else _SALT_DEFAULT
    fields.close(_MALFORMED)  # trailerField has only its default value, which DER omits
    if digest is None or mask is None or salt > _SALT_MOST:
        return None

    def check(spki: bytes, signature: bytes, message: bytes) -> bool:
        from cryptography.hazmat.primitives.asymmetric import padding

        filled = padding.PSS(padding.MGF1(_digest(mask)), salt)
        return _verified(spki, signature, message, filled, _digest(digest))

    return Algorithm(digest in _WEAK, check)


def _named_digest(wrapper: Reader) -> str | None:
    named = wrapper.enter(SEQUENCE, _MALFORMED)
    wrapper.close(_MALFORMED)
    found = _DIGESTS.get(named.content(OID, _MALFORMED))
    return found if named.rest() in (b"", _NULL) else None


def _mask(wrapper: Reader) -> str | None:
    named = wrapper.enter(SEQUENCE, _MALFORMED)
    wrapper.close(_MALFORMED)
    return _named_digest(named) if named.content(OID, _MALFORMED) == _MGF1 else None


for _arc, _name in (("1", "SHA1"), ("3.1", "SHA224"), ("3.2", "SHA256"), ("3.3", "SHA384"), ("3.4", "SHA512")):
    register(f"1.2.840.10045.4.{_arc}", _ecdsa(_name))
for _last, _name in ((4, "MD5"), (5, "SHA1"), (14, "SHA224"), (11, "SHA256"), (12, "SHA384"), (13, "SHA512")):
    register(f"1.2.840.113549.1.1.{_last}", _pkcs1(_name))
register("1.2.840.113549.1.1.10", _pss)
register("1.3.101.112", _edwards)
register("1.3.101.113", _edwards)
