"""Verification of signatures: the one place that checks a signature of a suite with a public key."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ushield_hw.crypto.algorithms import CURVES, SUITES, Padding, Suite
from ushield_hw.crypto.parsing import Unreadable, reading

Check = Callable[[bytes, bytes], bool]
"""Takes a signature as CMS and X.509 carry it (an Ecdsa-Sig-Value in DER, or the octets of RSA) and the message."""


@lru_cache(maxsize=4096)
def checker(spki: bytes, suite_name: str) -> Check:
    """Return a function that checks signatures with a public key; cached, because loading a key is expensive.

    Args:
        spki: the public key, SubjectPublicKeyInfo, DER.
        suite_name: the name of the suite of the signatures.

    Raises:
        Unreadable: the key cannot be read.
        ValueError: the key is not one of this suite.
    """
    from cryptography.exceptions import InvalidSignature

    check = _raising(spki, next(suite for suite in SUITES if suite.name == suite_name))

    def is_right(signature: bytes, message: bytes) -> bool:
        try:
            check(signature, message)
        except InvalidSignature:
            return False
        return True

    return is_right


def matches(spki: bytes, suite: Suite, message: bytes, raw: bytes) -> bool:
    """Return whether a signature, as a token returns it, is by a public key.

    Args:
        spki: the public key, SubjectPublicKeyInfo, DER.
        suite: the suite of the signature.
        message: the whole message.
        raw: the signature: r||s for ECDSA.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    signature = raw
    if suite.padding is Padding.ECDSA:
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        half = CURVES[suite.key].bits // 8  # as long as one coordinate
        if len(raw) != 2 * half:
            return False
        signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    try:
        return checker(spki, suite.name)(signature, message)
    except (Unreadable, UnsupportedAlgorithm, ValueError):
        return False


def _raising(spki: bytes, suite: Suite) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    digest: hashes.HashAlgorithm = getattr(hashes, suite.digest.upper())()
    with reading():
        key = load_der_public_key(spki)
    if suite.padding is Padding.ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
        curve = ec.ECDSA(digest)
        return lambda signature, message: key.verify(signature, message, curve)
    if suite.padding is Padding.ECDSA or not isinstance(key, rsa.RSAPublicKey):
        raise ValueError(f"no key for {suite.name}")
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    filled = pss if suite.padding is Padding.PSS else padding.PKCS1v15()
    return lambda signature, message: key.verify(signature, message, filled, digest)
