"""The registry of signature suites: the algorithms allowed in signed orders, and the mechanisms that produce them.

A suite combines a key type, a padding and a digest. It lists its ways: the PKCS#11 mechanisms that produce it, and the
input of each (PKCS#11 v2.40, mechanisms specification). No other module assumes SHA-256, RSA or EC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final


class KeyKind(Enum):
    """Key types that are allowed for signed orders."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA = "rsa"


class KeySpec(Enum):
    """The kinds of key that a token can be asked to generate."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def kind(self) -> KeyKind:
        """The kind of key, without its size."""
        return KeyKind.RSA if self.value.startswith("rsa") else KeyKind(self.value)

    @property
    def bits(self) -> int:
        """The length of the RSA modulus; 0 for EC."""
        return int(self.value.removeprefix("rsa-")) if self.kind is KeyKind.RSA else 0


class Padding(Enum):
    """Signature scheme that is applied to the digest."""

    ECDSA = "ecdsa"
    PKCS1 = "pkcs1"
    PSS = "pss"


class Feed(Enum):
    """Input of C_Sign."""

    MESSAGE = "message"  # the token hashes
    DIGEST = "digest"  # the host hashes
    DIGEST_INFO = "digest-info"  # the host hashes and wraps the digest as DigestInfo (RFC 8017 section 9.2)


@dataclass(frozen=True, slots=True)
class Way:
    """One mechanism that produces a suite's signature.

    Attributes:
        mechanism: its PKCS#11 name without ``CKM_``.
        feed: its input.
    """

    mechanism: str
    feed: Feed


_HASHES: Final = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Suite:
    """A key type with a signature scheme and a digest.

    Attributes:
        name: name of the suite.
        key: the key type.
        padding: the signature scheme.
        digest: hashlib name of the digest.
        ways: the mechanisms, in order of preference if the host hashes.
        digest_algorithm: DER AlgorithmIdentifier of the digest, as in a signed order.
        signature_algorithm: DER AlgorithmIdentifier of the signature, as in a signed order.
    """

    name: str
    key: KeyKind
    padding: Padding
    digest: str
    ways: tuple[Way, ...]
    digest_algorithm: bytes
    signature_algorithm: bytes

    def hash(self, message: bytes) -> bytes:
        """Return the suite's digest of ``message``."""
        return _HASHES[self.digest](message).digest()

    def way(self, offered: Collection[str], *, hash_on_token: bool) -> Way | None:
        """Return the way to use with a token that supports these mechanisms.

        Args:
            offered: mechanism names without ``CKM_``.
            hash_on_token: prefer a way in which the token hashes the message.

        Returns:
            The way; None if no mechanism is suitable.
        """
        usable = [way for way in self.ways if way.mechanism in offered]
        usable.sort(key=lambda way: (way.feed is Feed.MESSAGE) != hash_on_token)
        return usable[0] if usable else None


_DIGEST_OID: Final[dict[str, bytes]] = {
    "sha256": bytes.fromhex("0609608648016503040201"),
    "sha384": bytes.fromhex("0609608648016503040202"),
    "sha512": bytes.fromhex("0609608648016503040203"),
}
_ECDSA_OID: Final[dict[str, bytes]] = {  # ecdsa-with-SHA256 …
    "sha256": bytes.fromhex("06082a8648ce3d040302"),
    "sha384": bytes.fromhex("06082a8648ce3d040303"),
}
_RSA_OID: Final[dict[str, bytes]] = {  # sha256WithRSAEncryption …, not rsaEncryption: it names the digest
    "sha256": bytes.fromhex("06092a864886f70d01010b"),
    "sha384": bytes.fromhex("06092a864886f70d01010c"),
    "sha512": bytes.fromhex("06092a864886f70d01010d"),
}
_PSS_OID: Final = bytes.fromhex("06092a864886f70d01010a")
_MGF1_OID: Final = bytes.fromhex("06092a864886f70d010108")
_NULL: Final = b"\x05\x00"


def _short(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)  # always less than 128 octets here, so the length is one octet
    return bytes((tag, len(content))) + content


def _sequence(*parts: bytes) -> bytes:
    return _short(0x30, *parts)


def _pss_algorithm(digest: str) -> bytes:
    """Return the AlgorithmIdentifier of RSASSA-PSS with explicit parameters; salt length = digest length."""
    hashed = _sequence(_DIGEST_OID[digest], _NULL)
    salt = _short(0x02, bytes((hashlib.new(digest).digest_size,)))
    mask = _sequence(_MGF1_OID, hashed)
    return _sequence(_PSS_OID, _sequence(_short(0xA0, hashed), _short(0xA1, mask), _short(0xA2, salt)))


def _ecdsa(name: str, key: KeyKind, digest: str) -> Suite:
    number = digest.removeprefix("sha")
    ways = (Way("ECDSA", Feed.DIGEST), Way(f"ECDSA_SHA{number}", Feed.MESSAGE))
    algorithms = (_sequence(_DIGEST_OID[digest]), _sequence(_ECDSA_OID[digest]))
    return Suite(name, key, Padding.ECDSA, digest, ways, *algorithms)


def _rsa(padding: Padding, digest: str) -> Suite:
    number = digest.removeprefix("sha")
    if padding is Padding.PKCS1:
        ways = (Way("RSA_PKCS", Feed.DIGEST_INFO), Way(f"SHA{number}_RSA_PKCS", Feed.MESSAGE))
        algorithm = _sequence(_RSA_OID[digest], _NULL)
    else:
        ways = (Way("RSA_PKCS_PSS", Feed.DIGEST), Way(f"SHA{number}_RSA_PKCS_PSS", Feed.MESSAGE))
        algorithm = _pss_algorithm(digest)
    name = f"rsa-{padding.value}-{digest}"
    return Suite(name, KeyKind.RSA, padding, digest, ways, _sequence(_DIGEST_OID[digest]), algorithm)


SUITES: Final[tuple[Suite, ...]] = (
    _ecdsa("ecdsa-p256-sha256", KeyKind.EC_P256, "sha256"),
    _ecdsa("ecdsa-p384-sha384", KeyKind.EC_P384, "sha384"),
    *(_rsa(padding, digest) for padding in (Padding.PKCS1, Padding.PSS) for digest in ("sha256", "sha384", "sha512")),
)


def suites_for(key: KeyKind) -> tuple[Suite, ...]:
    """Return the suites for a key type, the default first."""
    return tuple(suite for suite in SUITES if suite.key is key)


# DigestInfo prefixes of RFC 8017 section 9.2, note 1.
DIGEST_INFO_PREFIX: Final[dict[str, bytes]] = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}

RSA_LEAST_BITS: Final = 2048


def too_short(kind: KeyKind, bits: int) -> bool:
    """Return whether a key is too short for signed orders.

    Args:
        kind: the key type.
        bits: length of the modulus or of the curve's field.
    """
    return kind is KeyKind.RSA and bits < RSA_LEAST_BITS


@dataclass(frozen=True, slots=True)
class Curve:
    """An elliptic curve (SEC 2).

    Attributes:
        name: its SEC 2 name, as ``cryptography`` calls it.
        bits: length of its field.
        oid: its object identifier, DER.
        order: the order of its base point, exclusive upper bound of r and s in a signature.
    """

    name: str
    bits: int
    oid: bytes
    order: int

    @property
    def point_octets(self) -> int:
        """Length of an uncompressed point: 04, then both coordinates (SEC 1 section 2.3.3)."""
        return 1 + 2 * (self.bits // 8)


CURVES: Final[dict[KeyKind, Curve]] = {
    KeyKind.EC_P256: Curve(
        "secp256r1",
        256,
        bytes.fromhex("06082a8648ce3d030107"),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    KeyKind.EC_P384: Curve(
        "secp384r1",
        384,
        bytes.fromhex("06052b81040022"),
        int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16),
    ),
}
"""The curve of each elliptic key type."""
