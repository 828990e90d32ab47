"""A simulated token: certificates and keys as a module would return them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.cms import pki
from ushield_hw.backend.model import CertificateRecord, KeyRecord
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.order import KeyUse
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, pairs
from ushield_hw.token.selection import select

NOW = pki.NOW


def public(private: pki.Key) -> bytes:
    """Return a public key in a token's format: the EC point or the RSA modulus."""
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    modulus = private.public_key().public_numbers().n
    return modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")


class Shelf:
    """A simulated token that holds the objects added to it."""

    def __init__(self, bank: pki.Authority) -> None:
        self.bank = bank
        self.certificates: list[CertificateRecord] = []
        self.keys: list[KeyRecord] = []

    def certificate(
        self,
        private: pki.Key,
        key_id: bytes = b"\x01",
        *,
        subject: str = "CN=张三",
        label: str = "",
        bank: pki.Authority | None = None,
        **fields: Any,
    ) -> None:
        der = pki.der((bank or self.bank).issue(subject, private.public_key(), **fields))
        self.certificates.append(CertificateRecord(len(self.certificates), key_id, label, der))

    def key(self, private: pki.Key, key_id: bytes = b"\x01", *, shows_public: bool = True, **fields: Any) -> None:
        """Add a private key; ``shows_public``: add its public key object too."""
        values = {"kind": KeyKind.EC_P256, "can_sign": True, "always_authenticate": False, **fields}
        handle = 100 + len(self.keys)
        self.keys.append(record(handle, key_id, private=True, public=None, **values))
        if shows_public:
            self.keys.append(record(handle + 50, key_id, private=False, public=public(private), **values))

    def pair(self, number: int = 0, **fields: Any) -> None:
        """Add a key and its certificate."""
        private, key_id = pki.key(number=number), bytes([number + 1])
        self.key(private, key_id)
        self.certificate(private, key_id, **fields)

    def pairs(self, *, logged_in: bool = True, now: datetime = NOW) -> tuple[Pair, ...]:
        return pairs(self.certificates, self.keys, logged_in=logged_in, now=now)

    def choose(self, use: KeyUse = KeyUse.PAYMENT, choice: KeyChoice = ANY, now: datetime = NOW) -> Pair:
        """Return the selected pair, or raise the error."""
        selection = select(self.pairs(now=now), use, choice, now)
        if selection.pair is None:
            assert selection.error is not None
            raise selection.error
        assert selection.error is None
        return selection.pair


def record(handle: int, key_id: bytes, **fields: Any) -> KeyRecord:
    known = {"label": "key", "kind_known": True, **fields}
    return KeyRecord(handle=handle, key_id=key_id, **{name: known[name] for name in FIELDS})


FIELDS = [name for name in KeyRecord.__dataclass_fields__ if name not in {"handle", "key_id"}]
