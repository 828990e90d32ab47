"""Private keys of a PIV card (NIST SP 800-78-4, table 6-2)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from ushield_hw.testing.card.apdu import WRONG_DATA, Refused, tlv

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Algorithm(IntEnum):
    """The algorithm identifiers in P1 of GENERAL AUTHENTICATE."""

    RSA_2048 = 0x07
    EC_P256 = 0x11
    EC_P384 = 0x14


_RSA_BITS: Final = 2048
_CURVES: Final[dict[Algorithm, ec.EllipticCurve]] = {
    Algorithm.EC_P256: ec.SECP256R1(),
    Algorithm.EC_P384: ec.SECP384R1(),
}
_DIGESTS: Final = {Algorithm.EC_P256: SHA256(), Algorithm.EC_P384: SHA384()}
_BY_CURVE: Final = {curve.name: algorithm for algorithm, curve in _CURVES.items()}


class Key:
    """A private key.

    Args:
        private: EC on P-256 or P-384, or RSA with 2048 bits.

    Raises:
        ValueError: PIV does not support this kind of key.
    """

    def __init__(self, private: PrivateKey) -> None:
        self._private = private
        name = private.curve.name if isinstance(private, ec.EllipticCurvePrivateKey) else ""
        if name not in _BY_CURVE and private.key_size != _RSA_BITS:
            raise ValueError(f"no PIV card holds a key of {name or 'RSA'} with {private.key_size} bits")
        self.algorithm = _BY_CURVE.get(name, Algorithm.RSA_2048)

    @classmethod
    def generate(cls, algorithm: int) -> Key:
        """Generate a key.

        Raises:
            Refused: ``WRONG_DATA``: unsupported algorithm.
        """
        if algorithm == Algorithm.RSA_2048:
            return cls(rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS))
        try:
            return cls(ec.generate_private_key(_CURVES[Algorithm(algorithm)]))
        except ValueError:
            raise Refused(WRONG_DATA) from None

    @classmethod
    def read(cls, saved: bytes) -> Key:
        """Load a key from the value of :attr:`saved`."""
        private = load_der_private_key(saved, None)
        assert isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))  # noqa: S101 - written by saved
        return cls(private)

    @property
    def saved(self) -> bytes:
        """The key in PKCS#8, for the card's memory."""
        return self._private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> bytes:
        """The public key as data objects (SP 800-73-4 part 2, table 11): 81 modulus and 82 exponent, or 86 point."""
        if isinstance(self._private, rsa.RSAPrivateKey):
            numbers = self._private.public_key().public_numbers()
            return tlv(0x81, numbers.n.to_bytes(_RSA_BITS // 8)) + tlv(0x82, numbers.e.to_bytes(3))
        return tlv(0x86, self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    def use(self, block: bytes) -> bytes:
        """Sign a digest (EC: DER), or apply the private exponent to a block padded by the host (RSA).

        Raises:
            Refused: ``WRONG_DATA``: the block does not have the size of the modulus or is not less than it.
        """
        if isinstance(self._private, rsa.RSAPrivateKey):
            return _raised(block, self._private.private_numbers())
        digest = _DIGESTS[self.algorithm]
        # equals the size of the curve's order; a longer digest is truncated on the right, FIPS 186-4, 6.4
        size = digest.digest_size
        return self._private.sign(block[:size].rjust(size, b"\0"), ec.ECDSA(Prehashed(digest)))

    def agree(self, point: bytes) -> bytes:
        """Return the ECDH shared secret with ``point``.

        Raises:
            Refused: ``WRONG_DATA``: not an EC key, or the point is not on its curve.
        """
        if isinstance(self._private, rsa.RSAPrivateKey):
            raise Refused(WRONG_DATA)
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._private.curve, point)
        except ValueError:
            raise Refused(WRONG_DATA) from None
        return self._private.exchange(ec.ECDH(), peer)


def _raised(block: bytes, key: rsa.RSAPrivateNumbers) -> bytes:
    """Return block ** d mod n by the Chinese remainder theorem (RFC 8017, section 5.1.2)."""
    number = int.from_bytes(block)
    if len(block) != _RSA_BITS // 8 or number >= key.public_numbers.n:
        raise Refused(WRONG_DATA)
    first, second = pow(number, key.dmp1, key.p), pow(number, key.dmq1, key.q)
    return (second + (first - second) * key.iqmp % key.p * key.q).to_bytes(_RSA_BITS // 8)
