"""Certificate requests (PKCS#10, RFC 2986) as strangers send them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ushield_hw.crypto.algorithms import RSA_LEAST_BITS
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import RequestRefused

MOST_OCTETS: Final = 16 << 10

_RSA_MOST_BITS: Final = 8192  # a check of a longer one costs us more than the sender
_RSA_LEAST_EXPONENT: Final = 65537
_CURVES: Final = frozenset({"secp256r1", "secp384r1"})
_DIGESTS: Final = frozenset({"sha256", "sha384", "sha512"})


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A request whose own signature is right: the sender has the key.

    Attributes:
        der: the request.
        subject: the name that it asks for.
        spki: the key, DER.
        spki_sha256: its digest, lower-case hex: what the request is known by.
    """

    der: bytes = field(repr=False)
    subject: x509.Name
    spki: bytes = field(repr=False)
    spki_sha256: str


def read_request(der: bytes) -> KeyRequest:
    """Read a request.

    Raises:
        RequestRefused: ``REQUEST_MALFORMED``: it is none in DER; ``KEY_TOO_WEAK``: its key or digest is not one that
            signed orders use; ``PROOF_WRONG``: it was not signed by the key that it is for.
    """
    if len(der) > MOST_OCTETS:
        raise RequestRefused("REQUEST_MALFORMED", problem="bank_no_pkcs10")
    try:
        return _read(der)
    except Unreadable as error:
        weak = isinstance(error.__cause__, UnsupportedAlgorithm)
        refused = {} if weak else {"problem": "bank_no_pkcs10"}
        raise RequestRefused("KEY_TOO_WEAK" if weak else "REQUEST_MALFORMED", **refused) from error


def _read(der: bytes) -> KeyRequest:
    with reading():
        request = x509.load_der_x509_csr(der)
        subject, key, digest = request.subject, request.public_key(), request.signature_hash_algorithm
        _check_key(key)
        if digest is None or digest.name not in _DIGESTS:
            raise RequestRefused("KEY_TOO_WEAK")
        genuine = request.is_signature_valid
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if spki not in der:  # a curve that is spelt out (RFC 5480 forbids it): the library knows it by its name
        raise RequestRefused("KEY_TOO_WEAK")
    if not genuine:
        raise RequestRefused("PROOF_WRONG")
    return KeyRequest(der, subject, spki, hashlib.sha256(spki).hexdigest())


def _check_key(key: object) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        strong = key.curve.name in _CURVES
    elif isinstance(key, rsa.RSAPublicKey):
        bits, exponent = key.key_size, key.public_numbers().e
        strong = RSA_LEAST_BITS <= bits <= _RSA_MOST_BITS and _RSA_LEAST_EXPONENT <= exponent < 1 << 32
    else:
        strong = False
    if not strong:
        raise RequestRefused("KEY_TOO_WEAK")
