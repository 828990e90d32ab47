"""Private keys as a PIV card uses them (NIST SP 800-78-4, table 6-2)."""

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
    """What P1 of GENERAL AUTHENTICATE names."""

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
    """One private key.

    Args:
        private: EC on P-256 or P-384, or RSA of 2048 bits.

    Raises:
        ValueError: a kind of key that no PIV card holds.
    """

    def __init__(self, private: PrivateKey) -> None:
        self._private = private
        name = private.curve.name if isinstance(private, ec.EllipticCurvePrivateKey) else ""
        if name not in _BY_CURVE and private.key_size != _RSA_BITS:
            raise ValueError(f"no PIV card holds a key of {name or 'RSA'} with {private.key_size} bits")
        self.algorithm = _BY_CURVE.get(name, Algorithm.RSA_2048)

    @classmethod
    def generate(cls, algorithm: int) -> Key:
        """Make a new one.

        Raises:
            Refused: ``WRONG_DATA``: there is no such algorithm here.
        """
        if algorithm == Algorithm.RSA_2048:
            return cls(rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS))
        try:
            return cls(ec.generate_private_key(_CURVES[Algorithm(algorithm)]))
        except ValueError:
            raise Refused(WRONG_DATA) from None

    @classmethod
    def read(cls, saved: bytes) -> Key:
        """Return the key that :attr:`saved` holds."""
        private = load_der_private_key(saved, None)
        assert isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))  # noqa: S101 - we wrote it
        return cls(private)

    @property
    def saved(self) -> bytes:
        """The key in PKCS#8, for the card's memory."""
        return self._private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> bytes:
        """The public half as data objects (SP 800-73-4 part 2, table 11): 81 modulus and 82 exponent, or 86 point."""
        if isinstance(self._private, rsa.RSAPrivateKey):
            numbers = self._private.public_key().public_numbers()
            return tlv(0x81, numbers.n.to_bytes(_RSA_BITS // 8)) + tlv(0x82, numbers.e.to_bytes(3))
        return tlv(0x86, self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    def use(self, block: bytes) -> bytes:
        """Sign a digest (EC: DER), or raise a block that the host has padded to the private exponent (RSA).

        Raises:
            Refused: ``WRONG_DATA``: the block has another size than the modulus, or is no number below it.
        """
        if isinstance(self._private, rsa.RSAPrivateKey):
            return _raised(block, self._private.private_numbers())
        digest = _DIGESTS[self.algorithm]
        size = digest.digest_size  # of the curve's order too: a longer digest loses its right end, FIPS 186-4, 6.4
        return self._private.sign(block[:size].rjust(size, b"\0"), ec.ECDSA(Prehashed(digest)))

    def agree(self, point: bytes) -> bytes:
        """Return the secret shared with the owner of ``point`` (ECDH).

        Raises:
            Refused: ``WRONG_DATA``: this is no EC key, or that no point of its curve.
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
