"""Matching private keys to certificates: by public key where available, otherwise only on unambiguous evidence."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.unit.cms import pki
from tests.unit.drivers.shelf import Shelf, public, record
from ushield_hw.backend.pkcs11.objects import _point
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import ec_point
from ushield_hw.errors import CertificateMultiple
from ushield_hw.token.key_matching import Proof
from ushield_hw.token.key_pairs import KeyChoice, Pair

pytestmark = pytest.mark.unit

P256, P384, RSA = KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA
KINDS = {P256: 0, P384: 0, RSA: 0}


def private(shelf: Shelf, key_id: bytes, kind: KeyKind | None = P256, **fields: object) -> int:
    """Add a private key without a readable public key; return its handle."""
    handle = 1 + len(shelf.keys)
    known = {"kind": kind, "public": None, "can_sign": True, "always_authenticate": False, **fields}
    shelf.keys.append(record(handle, key_id, private=True, **known))
    return handle


def public_of(shelf: Shelf, key: pki.Key, key_id: bytes, kind: KeyKind = P256, **fields: object) -> None:
    known = {"kind": kind, "public": public(key), "can_sign": False, "always_authenticate": False, **fields}
    shelf.keys.append(record(1 + len(shelf.keys), key_id, private=False, **known))


def told(pair: Pair) -> tuple[object, ...]:
    return pair.key and pair.key.handle, pair.proof, tuple(key.handle for key in pair.rivals)


def only(shelf: Shelf) -> tuple[object, ...]:
    (pair,) = shelf.pairs()
    return told(pair)


# --- several keys with one id -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("labels", ["none", "apart"])
def test_ec_pairs_that_share_an_id_are_keys_ambiguous(shelf: Shelf, count: int, labels: str) -> None:
    """Labels do not decide either: nothing guarantees that a token keeps them consistent."""
    for number in range(count):
        label = f"key {number}" if labels == "apart" else ""
        private(shelf, b"\x12", label=label)
        public_of(shelf, pki.key(number=number), b"\x12", label=label)
    shelf.certificate(pki.key(number=1), b"\x12", label="key 1")
    (pair,) = shelf.pairs()
    assert (pair.key, pair.has_key, len(pair.rivals)) == (None, None, count)
    with pytest.raises(CertificateMultiple) as caught:
        shelf.choose()
    assert caught.value.code == "KEYS_AMBIGUOUS"
    assert len(caught.value.details["candidates"]) == count  # type: ignore[arg-type]


def test_a_person_tells_them_apart_by_a_label(shelf: Shelf) -> None:
    first, second = (private(shelf, b"\x12", label=label) for label in ("first", "second"))
    for number in (0, 1):
        public_of(shelf, pki.key(number=number), b"\x12")
    shelf.certificate(pki.key(number=1), b"\x12", label="pay")
    assert [shelf.choose(choice=KeyChoice(label=label)).key.handle for label in ("first", "second")] == [first, second]  # type: ignore[union-attr]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_rsa_keys_that_share_an_id_show_their_modulus(shelf: Shelf, order: tuple[int, int]) -> None:
    handles = {number: private(shelf, b"\x12", RSA, public=public(pki.key(RSA, number=number))) for number in order}
    shelf.certificate(pki.key(RSA, number=1), b"\x12")
    assert only(shelf) == (handles[1], Proof.OWN, ())


@pytest.mark.parametrize("of", [P256, P384, RSA])
def test_pairs_of_different_kinds_that_share_an_id(shelf: Shelf, of: KeyKind) -> None:
    handles = {}
    for kind in KINDS:
        shows = public(pki.key(kind)) if kind is RSA else None
        handles[kind] = private(shelf, b"\x12", kind, public=shows)
        public_of(shelf, pki.key(kind), b"\x12", kind)
    shelf.certificate(pki.key(of), b"\x12")
    assert only(shelf)[0] == handles[of]


def test_a_public_object_of_one_of_two_keys_tells_nothing(shelf: Shelf) -> None:
    private(shelf, b"\x12")
    private(shelf, b"\x12")
    public_of(shelf, pki.key(), b"\x12")
    shelf.certificate(pki.key(), b"\x12")
    assert only(shelf) == (None, None, (1, 2))


def test_the_one_that_shows_its_half_tells_the_other(shelf: Shelf) -> None:
    private(shelf, b"\x12", public=public(pki.key(number=1)))
    hidden = private(shelf, b"\x12")
    public_of(shelf, pki.key(number=1), b"\x12")
    public_of(shelf, pki.key(number=2), b"\x12")
    shelf.certificate(pki.key(number=2), b"\x12")
    assert only(shelf) == (hidden, Proof.PUBLIC, ())


def test_a_key_that_is_left_of_two_pairs(shelf: Shelf) -> None:
    """The other key's public object is left: the first signature shows which key remains."""
    handle = private(shelf, b"\x12")
    public_of(shelf, pki.key(number=1), b"\x12")
    public_of(shelf, pki.key(number=2), b"\x12")
    shelf.certificate(pki.key(number=2), b"\x12")
    assert only(shelf) == (handle, Proof.ID, ())


# --- the same key twice -----------------------------------------------------------------------------------------------


def test_a_handle_that_is_listed_twice_is_one_key(shelf: Shelf) -> None:
    handle = private(shelf, b"\x01")
    public_of(shelf, pki.key(), b"\x01")
    shelf.certificate(pki.key(), b"\x01")
    shelf.keys += shelf.keys
    shelf.certificates += shelf.certificates
    assert only(shelf) == (handle, Proof.PUBLIC, ())


@pytest.mark.parametrize("kind", [P256, RSA])
def test_a_pair_that_is_stored_twice_is_one_key(shelf: Shelf, kind: KeyKind) -> None:
    for _ in range(2):
        private(shelf, b"\x01", kind, public=public(pki.key(kind)) if kind is RSA else None)
        public_of(shelf, pki.key(kind), b"\x01", kind)
    shelf.certificate(pki.key(kind), b"\x01")
    assert only(shelf)[::2] == (1, ())


def test_a_certificate_that_is_stored_twice_is_one(shelf: Shelf) -> None:
    handle = private(shelf, b"\x01")
    public_of(shelf, pki.key(), b"\x01")
    for key_id, label in ((b"\x07", "copy"), (b"\x01", "pay")):
        shelf.certificate(pki.key(), key_id, label=label, serial=7)
    assert shelf.certificates[0].der == shelf.certificates[1].der
    (pair,) = shelf.pairs()
    assert (pair.certificate.label, told(pair)[0]) == ("pay", handle)
    assert KeyChoice(label="copy").takes(pair)
    assert KeyChoice(key_id=b"\x07").takes(pair)


# --- reliability of ids -----------------------------------------------------------------------------------------------


def test_a_key_whose_public_object_is_anothers_is_not_the_certificates(shelf: Shelf) -> None:
    private(shelf, b"\x01")
    public_of(shelf, pki.key(number=2), b"\x01")
    shelf.certificate(pki.key(number=1), b"\x01")
    (pair,) = shelf.pairs()
    assert (pair.key, pair.of_another) == (None, True)


def test_ids_that_differ_in_all_three(shelf: Shelf) -> None:
    handle = private(shelf, b"\x01")
    public_of(shelf, pki.key(), b"\x02")
    shelf.certificate(pki.key(), b"\x03")
    assert only(shelf) == (handle, Proof.ONLY, ())


def test_the_only_key_left_is_not_one_that_another_certificate_names(shelf: Shelf) -> None:
    private(shelf, b"\x01")
    shelf.certificate(pki.key(number=1), b"\x01")
    shelf.certificate(pki.key(number=2), b"\x02")
    assert [pair.has_key for pair in shelf.pairs()] == [True, False]


def test_empty_ids_on_everything(shelf: Shelf) -> None:
    for number in (0, 1):
        private(shelf, b"")
        public_of(shelf, pki.key(number=number), b"")
    shelf.certificate(pki.key(number=1), b"")
    assert only(shelf) == (None, None, (1, 3))


def test_a_nul_more_at_the_end_of_an_id(shelf: Shelf) -> None:
    handle = private(shelf, b"\x01\0")
    shelf.certificate(pki.key(), b"\x01")
    assert only(shelf) == (handle, Proof.ID, ())
    private(shelf, b"\x01")  # an exact match takes precedence
    assert only(shelf) == (2, Proof.ID, ())


# --- other key types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_a_key_of_another_kind_with_the_same_id(shelf: Shelf, known: bool) -> None:
    """For example secp256k1: never a match, unless the token does not report the curve."""
    handle = private(shelf, b"\x01", None, kind_known=known)
    shelf.certificate(pki.key(), b"\x01")
    assert only(shelf)[0] == (None if known else handle)


def test_a_public_half_on_another_curve_says_nothing_of_the_key(shelf: Shelf) -> None:
    handle = private(shelf, b"\x01")
    public_of(shelf, pki.key(P384), b"\x01", P384)
    shelf.certificate(pki.key(), b"\x01")
    assert only(shelf) == (handle, Proof.ID, ())


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.BrainpoolP256R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_certificate_of_a_kind_that_signs_no_order(shelf: Shelf, curve: ec.EllipticCurve) -> None:
    private(shelf, b"\x01", None)
    private(shelf, b"\x01")
    shelf.certificate(ec.generate_private_key(curve), b"\x01")
    (pair,) = shelf.pairs()
    assert told(pair)[0] == 1
    assert not pair.fits(Shelf.choose.__defaults__[0])  # type: ignore[index]


# --- encodings of EC points -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [P256, P384])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "octet string"])
@pytest.mark.parametrize("form", ["uncompressed", "compressed", "hybrid"])
def test_every_form_of_a_point_is_the_same_point(kind: KeyKind, wrapped: bool, form: str) -> None:
    key = pki.key(kind).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    whole = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    short = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    shown = {"uncompressed": whole, "compressed": short, "hybrid": bytes((6 | whole[-1] & 1,)) + whole[1:]}[form]
    assert _point(bytes((4, len(shown))) + shown if wrapped else shown, kind) == whole


@pytest.mark.parametrize("value", [b"", b"\x04", b"\x02" + b"\xff" * 32, b"\x05" * 65, b"\x04" * 64, b"\x04\x00"])
def test_what_is_no_point(value: bytes) -> None:
    assert ec_point(value, P256) is None
    assert _point(value, P256) is None
