"""A token's key as cryptography's builders want one: it signs there and shows nothing but its public half.

pyca's own answer to keys in hardware is a subclass of its private-key classes; its certificate, request, CRL and OCSP
builders take one. Only signing works; everything that would need the secret says so. Nothing here knows how a token is
reached: that is in ``sign``, which the caller hands in.
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
"""The public keys that certificates of this project are for."""

Sign = Callable[[bytes], bytes]
"""Signs a whole message on the token with one fixed suite; ECDSA gives r||s."""


def token_private_key(public: CertifiedKey, suite: Suite, sign: Sign) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """Return a private key object for a key on a token.

    Args:
        public: its public half.
        suite: what ``sign`` makes; asked for anything else, the object refuses.
        sign: signs on the token.
    """
    if isinstance(public, rsa.RSAPublicKey):
        return _RsaKey(public, suite, sign)
    return _EcKey(public, suite, sign)


def builder_arguments(suite: Suite) -> dict[str, Any]:
    """Return what a builder's ``sign`` must be told, beside the key, to make signatures of ``suite``."""
    digest: Any = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[suite.digest]
    if suite.padding is not Padding.PSS:
        return {"algorithm": digest}
    return {"algorithm": digest, "rsa_padding": padding.PSS(padding.MGF1(digest), digest.digest_size)}


class _OnToken:
    """What both kinds of key have in common: nothing secret is here to be shown or copied."""

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
