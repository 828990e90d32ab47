"""Certificate requests (PKCS#10, RFC 2986) from untrusted clients."""

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

_RSA_MOST_BITS: Final = 8192  # verifying with a longer key would cost the server more than the sender
_RSA_LEAST_EXPONENT: Final = 65537
_CURVES: Final = frozenset({"secp256r1", "secp384r1"})
_DIGESTS: Final = frozenset({"sha256", "sha384", "sha512"})


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A certificate request with a valid signature, which proves possession of the key.

    Attributes:
        der: the request, DER.
        subject: the requested subject.
        spki: the public key (SubjectPublicKeyInfo), DER.
        spki_sha256: SHA-256 of ``spki``, lower-case hex; identifies the request.
    """

    der: bytes = field(repr=False)
    subject: x509.Name
    spki: bytes = field(repr=False)
    spki_sha256: str


def read_request(der: bytes) -> KeyRequest:
    """Parse and check a certificate request.

    Args:
        der: PKCS#10, DER.

    Returns:
        The checked request.

    Raises:
        RequestRefused: ``REQUEST_MALFORMED``: not a PKCS#10 request in DER; ``KEY_TOO_WEAK``: the key or digest is not
            accepted for signed orders; ``PROOF_WRONG``: the signature does not match the key.
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
    # explicit curve parameters, which RFC 5480 forbids: cryptography re-encodes them as a named curve
    if spki not in der:
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
