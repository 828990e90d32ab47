"""Signature suites: the one place that knows which algorithms a signed order may use and how a token makes them.

A suite joins a kind of key and a digest. It names its ways: the PKCS#11 mechanisms that produce it, and what each must
be fed (PKCS#11 v2.40, mechanisms specification). Nothing outside this file assumes SHA-256, RSA or EC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final


class KeyKind(Enum):
    """Kinds of signature keys a signed order may use."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA = "rsa"


class Padding(Enum):
    """How the suite turns a digest into a signature."""

    ECDSA = "ecdsa"
    PKCS1 = "pkcs1"
    PSS = "pss"


class Feed(Enum):
    """What C_Sign receives."""

    MESSAGE = "message"  # the token hashes
    DIGEST = "digest"  # the host hashes
    DIGEST_INFO = "digest-info"  # the host hashes and wraps the digest as DigestInfo (RFC 8017 section 9.2)


@dataclass(frozen=True, slots=True)
class Way:
    """One mechanism that makes a suite's signature. ``mechanism`` is the PKCS#11 name without ``CKM_``."""

    mechanism: str
    feed: Feed


@dataclass(frozen=True, slots=True)
class Suite:
    """A kind of key with a digest. ``digest`` is a hashlib name; ``ways`` are in order of preference on the host."""

    name: str
    key: KeyKind
    padding: Padding
    digest: str
    ways: tuple[Way, ...]

    def hash(self, message: bytes) -> bytes:
        """Return the suite's digest of ``message``."""
        return hashlib.new(self.digest, message).digest()

    def way(self, offered: Collection[str], *, hash_on_token: bool) -> Way | None:
        """Return the way to use on a token that offers these mechanisms, or None.

        Args:
            offered: mechanism names without ``CKM_``.
            hash_on_token: take a way that hands the token the whole message, where there is one.
        """
        usable = [way for way in self.ways if way.mechanism in offered]
        usable.sort(key=lambda way: (way.feed is Feed.MESSAGE) != hash_on_token)
        return usable[0] if usable else None


def _ecdsa(name: str, key: KeyKind, digest: str) -> Suite:
    number = digest.removeprefix("sha")
    ways = (Way("ECDSA", Feed.DIGEST), Way(f"ECDSA_SHA{number}", Feed.MESSAGE))
    return Suite(name, key, Padding.ECDSA, digest, ways)


def _rsa(padding: Padding, digest: str) -> Suite:
    number = digest.removeprefix("sha")
    if padding is Padding.PKCS1:
        ways = (Way("RSA_PKCS", Feed.DIGEST_INFO), Way(f"SHA{number}_RSA_PKCS", Feed.MESSAGE))
    else:
        ways = (Way("RSA_PKCS_PSS", Feed.DIGEST), Way(f"SHA{number}_RSA_PKCS_PSS", Feed.MESSAGE))
    return Suite(f"rsa-{padding.value}-{digest}", KeyKind.RSA, padding, digest, ways)


SUITES: Final[tuple[Suite, ...]] = (
    _ecdsa("ecdsa-p256-sha256", KeyKind.EC_P256, "sha256"),
    _ecdsa("ecdsa-p384-sha384", KeyKind.EC_P384, "sha384"),
    *(_rsa(padding, digest) for padding in (Padding.PKCS1, Padding.PSS) for digest in ("sha256", "sha384", "sha512")),
)


def suites_for(key: KeyKind) -> tuple[Suite, ...]:
    """Return the suites a key of this kind can make, the default first."""
    return tuple(suite for suite in SUITES if suite.key is key)


# DigestInfo prefixes of RFC 8017 section 9.2, note 1.
DIGEST_INFO_PREFIX: Final[dict[str, bytes]] = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
