"""A private key on a token as a private key object of cryptography; it can sign, and contains only the public key.

cryptography supports keys in hardware through subclasses of its private key classes, which its builders for
certificates, requests, CRLs and OCSP accept. Only signing works; operations that need the secret raise
``UnsupportedAlgorithm``. The access to the token is in ``sign``, a function that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ushield_hw.crypto.algorithms import Padding, Suite

CertifiedKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""The public key types in certificates of this project."""

Sign = Callable[[bytes], bytes]
"""Signs a message on the token with one fixed suite; returns r||s for ECDSA."""


def token_private_key(public: CertifiedKey, suite: Suite, sign: Sign) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return a private key object for a key on a token.

    Args:
        public: its public key.
        suite: the suite of ``sign``; a request for other algorithms raises ``UnsupportedAlgorithm``.
        sign: signs on the token.
    """
    if isinstance(public, rsa.RSAPublicKey):
        return _RsaKey(public, suite, sign)
    return _EcKey(public, suite, sign)


def builder_arguments(suite: Suite) -> dict[str, Any]:
    """Return the keyword arguments, other than the key, for a builder's ``sign`` to produce signatures of ``suite``."""
    digest: Any = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[suite.digest]
    if suite.padding is not Padding.PSS:
        return {"algorithm": digest}
    return {"algorithm": digest, "rsa_padding": padding.PSS(padding.MGF1(digest), digest.digest_size)}


class _OnToken:
    """Methods common to both key types: there is no secret to export, so a copy is the object itself."""

    def private_numbers(self) -> NoReturn:
        _refuse()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:
        _refuse()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> Self:
        return self


def _refuse() -> NoReturn:
    raise UnsupportedAlgorithm("the key stays on the token")


class _EcKey(_OnToken, ec.EllipticCurvePrivateKey):
    def __init__(self, public: ec.EllipticCurvePublicKey, suite: Suite, sign: Sign) -> None:
        self._public = public
        self._suite = suite
        self._sign = sign

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        digest = getattr(signature_algorithm, "algorithm", None)
        if getattr(digest, "name", None) != self._suite.digest:
            raise UnsupportedAlgorithm(f"this key signs with {self._suite.name}")
        raw = self._sign(bytes(data))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        _refuse()


class _RsaKey(_OnToken, rsa.RSAPrivateKey):
    def __init__(self, public: rsa.RSAPublicKey, suite: Suite, sign: Sign) -> None:
        self._public = public
        self._suite = suite
        self._sign = sign

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        wanted = "EMSA-PSS" if self._suite.padding is Padding.PSS else "EMSA-PKCS1-v1_5"
        if padding.name != wanted or getattr(algorithm, "name", None) != self._suite.digest:
            raise UnsupportedAlgorithm(f"this key signs with {self._suite.name}")
        return self._sign(bytes(data))

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def decrypt(self, ciphertext: bytes, padding: Any) -> bytes:
        _refuse()
