"""Public keys in SubjectPublicKeyInfo, the format of CKA_PUBLIC_KEY_INFO."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import comparable

pytestmark = pytest.mark.unit

EC = ec.derive_private_key(7, ec.SECP256R1()).public_key()
RSA = rsa.RSAPublicNumbers(65537, (1 << 2047) + 1).public_key()
EC_INFO, RSA_INFO = (key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (EC, RSA))
POINT = EC.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def test_it_is_the_point_or_the_modulus() -> None:
    assert comparable(EC_INFO, KeyKind.EC_P256) == POINT
    assert comparable(RSA_INFO, KeyKind.RSA) == b"\x80" + bytes(254) + b"\1"


def test_another_form_of_the_point_is_the_same() -> None:
    half = EC.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    short = EC_INFO[: -len(POINT)] + half
    lengths = {1: len(short) - 2, len(short) - len(half) - 2: len(half) + 1}  # outer, and of the BIT STRING
    changed = bytes(lengths.get(at, octet) for at, octet in enumerate(short))
    assert comparable(changed, KeyKind.EC_P256) == POINT


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        (b"", KeyKind.RSA),
        (b"", KeyKind.EC_P256),
        (b"0\0", KeyKind.RSA),
        (EC_INFO, KeyKind.RSA),
        (EC_INFO, KeyKind.EC_P384),
        (RSA_INFO, KeyKind.EC_P256),
        (EC_INFO + b"\0", KeyKind.EC_P256),
        (RSA_INFO[:-1], KeyKind.RSA),
        (b"\xff" * 64, KeyKind.EC_P256),
    ],
)
def test_anything_else_is_none(info: bytes, kind: KeyKind) -> None:
    assert comparable(info, kind) is None
