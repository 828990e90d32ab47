"""Keys and certificates: matching, and selection for a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.cms import pki
from tests.unit.drivers.shelf import Shelf, public, record
from tests.unit.verifier.test_rules import renamed
from ushield_hw.backend.model import CertificateRecord
from ushield_hw.certificates.certificate import install
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import CertificateExpired, CertificateMultiple, CertificateNotFound, KeyMismatch
from ushield_hw.order import KeyUse
from ushield_hw.token.key_matching import Proof
from ushield_hw.token.key_pairs import PENDING, KeyChoice
from ushield_hw.token.session import Session

pytestmark = pytest.mark.unit

NOW, DAY = pki.NOW, pki.DAY
PAYMENT, LOGIN = KeyUse.PAYMENT, KeyUse.LOGIN


@pytest.fixture(scope="module")
def other_bank() -> pki.Authority:
    return pki.authority("CN=Other Root")


def with_key(shelf: Shelf) -> Sequence[bool | None]:
    return [pair.has_key for pair in shelf.pairs()]


# --- matching ---------------------------------------------------------------------------------------------------------


def test_by_id(shelf: Shelf) -> None:
    shelf.key(pki.key(), shows_public=False)
    shelf.certificate(pki.key())
    assert with_key(shelf) == [True]


def test_by_public_key_when_the_ids_differ(shelf: Shelf) -> None:
    shelf.key(pki.key(), b"\x0a")
    shelf.certificate(pki.key(), b"\x0b")
    (pair,) = shelf.pairs()
    assert pair.has_key is True
    assert pair.key_id == "0a"


def test_by_public_key_when_the_certificate_has_no_id(shelf: Shelf) -> None:
    shelf.key(pki.key(), b"\x0a")
    shelf.certificate(pki.key(), b"")
    assert with_key(shelf) == [True]


def test_an_rsa_key_by_its_modulus(shelf: Shelf) -> None:
    shelf.key(pki.key(KeyKind.RSA), b"\x0a", kind=KeyKind.RSA)
    shelf.certificate(pki.key(KeyKind.RSA), b"\x0b")
    assert with_key(shelf) == [True]


def test_an_id_does_not_make_a_pair_against_the_public_key(shelf: Shelf) -> None:
    shelf.key(pki.key(number=1), b"\x01")
    shelf.certificate(pki.key(number=2), b"\x01")
    assert with_key(shelf) == [False]


def test_of_two_keys_with_one_id_the_one_that_fits(shelf: Shelf) -> None:
    shelf.keys.append(record(1, b"\x01", private=True, public=public(pki.key(number=1)), **USUAL))
    shelf.keys.append(record(2, b"\x01", private=True, public=public(pki.key(number=2)), **USUAL))
    shelf.certificate(pki.key(number=2), b"\x01")
    (pair,) = shelf.pairs()
    assert pair.key is not None
    assert pair.key.handle == 2


USUAL = {"kind": KeyKind.EC_P256, "can_sign": True, "always_authenticate": False}


def test_a_certificate_without_a_key(shelf: Shelf) -> None:
    shelf.certificate(pki.key())
    (pair,) = shelf.pairs()
    assert (pair.has_key, pair.key, pair.key_id) == (False, None, "01")


def test_the_only_key_is_the_only_certificates_though_no_id_says_so(shelf: Shelf) -> None:
    """Nothing contradicts it; the first signature is verified."""
    shelf.key(pki.key(), b"", shows_public=False)
    shelf.certificate(pki.key(), b"")
    assert [(pair.has_key, pair.proof) for pair in shelf.pairs()] == [(True, Proof.ONLY)]


def test_two_empty_ids_are_no_pair(shelf: Shelf) -> None:
    shelf.key(pki.key(), b"", shows_public=False)
    shelf.key(pki.key(number=1), b"", shows_public=False)
    shelf.certificate(pki.key(), b"")
    (pair,) = shelf.pairs()
    assert (pair.has_key, pair.key, len(pair.rivals)) == (None, None, 2)


def test_before_login_nobody_knows(shelf: Shelf) -> None:
    shelf.certificate(pki.key())
    assert shelf.pairs(logged_in=False)[0].has_key is None


def test_before_login_a_public_key_object_shows(shelf: Shelf) -> None:
    shelf.keys.append(record(1, b"\x01", private=False, public=public(pki.key()), **USUAL))
    shelf.certificate(pki.key())
    assert shelf.pairs(logged_in=False)[0].has_key is True


@pytest.mark.parametrize("der", [b"", b"nonsense", b"\x30\x00"])
def test_what_is_no_certificate_is_left_out(shelf: Shelf, der: bytes) -> None:
    shelf.certificates.append(CertificateRecord(9, b"\x09", "", der))
    shelf.pair()
    assert len(shelf.pairs()) == 1


def test_a_pair_for_documents(shelf: Shelf) -> None:
    shelf.pair(subject="CN=张三,O=Demo Bank", label="pay")
    document = shelf.pairs()[0].to_json()
    assert document.items() >= {"key_id": "01", "subject": "CN=张三,O=Demo Bank", "has_key": True}.items()
    assert document["not_after"] == (NOW + 700 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert document["key_usage"] == ["nonRepudiation"]


# --- selection for a job ----------------------------------------------------------------------------------------------


def test_the_only_one(shelf: Shelf) -> None:
    shelf.pair()
    assert shelf.choose().key_id == "01"


def test_the_newest_of_one_person(shelf: Shelf) -> None:
    shelf.pair(0, not_before=NOW - 10 * DAY)
    shelf.pair(1, not_before=NOW - 1 * DAY)
    shelf.pair(2, not_before=NOW - 5 * DAY)
    assert shelf.choose().key_id == "02"


def test_of_two_that_begin_together_the_one_that_lasts(shelf: Shelf) -> None:
    shelf.pair(0, not_before=NOW - DAY, not_after=NOW + 10 * DAY)
    shelf.pair(1, not_before=NOW - DAY, not_after=NOW + 20 * DAY)
    assert shelf.choose().key_id == "02"


def test_two_people(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三")
    shelf.pair(1, subject="CN=李四")
    with pytest.raises(CertificateMultiple) as caught:
        shelf.choose()
    candidates = caught.value.details["candidates"]
    assert isinstance(candidates, list)
    for subject, candidate in zip(["CN=张三", "CN=李四"], candidates, strict=True):
        assert subject in candidate


def test_one_person_at_two_banks(shelf: Shelf, other_bank: pki.Authority) -> None:
    shelf.pair(0)
    shelf.pair(1, bank=other_bank)
    with pytest.raises(CertificateMultiple):
        shelf.choose()


def test_a_second_person_who_cannot_do_the_job_does_not_matter(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三")
    shelf.pair(1, subject="CN=李四", key_usage=["digitalSignature"])
    shelf.pair(2, subject="CN=王五", not_after=NOW - DAY)
    shelf.certificate(pki.key(number=3), b"\x04", subject="CN=赵六")
    assert shelf.choose().key_id == "01"


def test_what_is_pending_is_not_used(shelf: Shelf) -> None:
    shelf.pair(0, not_before=NOW - 10 * DAY)
    shelf.pair(1, not_before=NOW - 1 * DAY, label=f"new{PENDING}")
    assert shelf.choose().key_id == "01"
    assert [pair.activated for pair in shelf.pairs()] == [True, False]


def test_only_something_pending(shelf: Shelf) -> None:
    shelf.pair(label=f"new{PENDING}")
    with pytest.raises(CertificateNotFound):
        shelf.choose()


@pytest.mark.parametrize(
    ("use", "usage", "fits"),
    [
        (PAYMENT, ["nonRepudiation"], True),
        (PAYMENT, ["nonRepudiation", "digitalSignature"], True),
        (PAYMENT, ["digitalSignature"], False),
        (PAYMENT, ["keyEncipherment"], False),
        (PAYMENT, None, True),
        (LOGIN, ["digitalSignature"], True),
        (LOGIN, ["nonRepudiation"], False),
        (LOGIN, None, True),
    ],
)
def test_the_job_a_certificate_allows(shelf: Shelf, use: KeyUse, usage: list[str] | None, fits: bool) -> None:
    shelf.pair(key_usage=usage)
    if fits:
        assert shelf.choose(use).key_id == "01"
        return
    with pytest.raises(CertificateNotFound) as caught:
        shelf.choose(use)
    assert caught.value.code == "KEY_USE_NOT_ALLOWED"


def test_a_key_of_a_kind_that_no_signed_order_may_use(shelf: Shelf) -> None:
    other = ec.generate_private_key(ec.SECP521R1())
    shelf.key(other, kind=None)
    shelf.certificate(other)
    assert with_key(shelf) == [True]
    with pytest.raises(CertificateNotFound):
        shelf.choose()


def test_a_key_that_may_not_sign(shelf: Shelf) -> None:
    shelf.key(pki.key(), can_sign=False)
    shelf.certificate(pki.key())
    with pytest.raises(CertificateNotFound):
        shelf.choose()


def test_nothing_there(shelf: Shelf) -> None:
    with pytest.raises(CertificateNotFound) as caught:
        shelf.choose()
    assert (caught.value.code, caught.value.details) == (
        "CERTIFICATE_NOT_FOUND",
        {"use": "nonRepudiation", "candidates": [], "left_out": []},
    )


# --- validity ---------------------------------------------------------------------------------------------------------


def test_expired(shelf: Shelf) -> None:
    shelf.pair(not_before=NOW - 20 * DAY, not_after=NOW - 10 * DAY)
    with pytest.raises(CertificateExpired) as caught:
        shelf.choose()
    assert (caught.value.code, caught.value.details["subject"]) == ("CERTIFICATE_EXPIRED", "CN=张三")


def test_not_yet_valid(shelf: Shelf) -> None:
    shelf.pair(not_before=NOW + 10 * DAY)
    with pytest.raises(CertificateExpired) as caught:
        shelf.choose()
    assert caught.value.code == "CERTIFICATE_NOT_YET_VALID"


def test_of_several_that_are_over_the_last_is_named(shelf: Shelf) -> None:
    shelf.pair(0, not_after=NOW - 10 * DAY)
    shelf.pair(1, not_after=NOW - 5 * DAY)
    with pytest.raises(CertificateExpired) as caught:
        shelf.choose()
    assert caught.value.details["key_id"] == "02"


def test_what_is_not_valid_yet_takes_nobodys_place(shelf: Shelf) -> None:
    shelf.pair(0, not_before=NOW - 20 * DAY, not_after=NOW + 9 * DAY)
    shelf.pair(1, not_before=NOW + DAY, not_after=NOW + 30 * DAY)
    assert [pair.superseded for pair in shelf.pairs()] == [False, False]
    assert [pair.superseded for pair in shelf.pairs(now=NOW + 2 * DAY)] == [True, False]


def test_an_older_one_that_still_lives(shelf: Shelf) -> None:
    shelf.pair(0, not_before=NOW - 20 * DAY)
    shelf.pair(1, not_before=NOW + DAY)
    assert shelf.choose().key_id == "01"


@pytest.mark.parametrize(
    ("moment", "lives"), [(NOW, True), (NOW + DAY, True), (NOW + DAY + timedelta(seconds=1), False)]
)
def test_the_last_second_counts(shelf: Shelf, moment: datetime, lives: bool) -> None:
    shelf.pair(not_before=NOW, not_after=NOW + DAY)
    assert shelf.pairs()[0].valid_at(moment) is lives


@pytest.mark.parametrize("uses", [["nonRepudiation"], ["nonRepudiation", "digitalSignature"]])
def test_a_name_that_the_ca_writes_otherwise_is_the_same_person(shelf: Shelf, uses: list[str]) -> None:
    shelf.key(pki.key(), b"\x01")
    shelf.key(pki.key(number=1), b"\x02")
    shelf.certificate(pki.key(), b"\x01", subject="CN=Zhang")
    shelf.certificate(
        pki.key(number=1), b"\x02", subject="CN=Zhang", not_before=pki.NOW - timedelta(hours=1), key_usage=uses
    )
    newer = shelf.certificates.pop()
    der = renamed(newer.der, shelf.bank.key, b"\x0c\x05Zhang", b"\x13\x07 zHANG ")
    shelf.certificates.append(replace(newer, der=der))
    assert shelf.choose().key_id == "02"
    assert [pair.superseded for pair in shelf.pairs()] == [len(uses) == 1, False]


# --- the user's choice ------------------------------------------------------------------------------------------------


def test_by_key_id(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三")
    shelf.pair(1, subject="CN=李四")
    assert shelf.choose(choice=KeyChoice(b"\x02")).key_id == "02"


def test_by_the_certificates_id_when_the_keys_differs(shelf: Shelf) -> None:
    shelf.key(pki.key(), b"\x0a")
    shelf.certificate(pki.key(), b"\x0b")
    for key_id in (b"\x0a", b"\x0b"):
        assert shelf.choose(choice=KeyChoice(key_id)).key_id == "0a"


def test_an_id_that_certificates_bear_means_these(shelf: Shelf) -> None:
    shelf.key(pki.key(), b"\x0a")
    shelf.certificate(pki.key(), b"\x0a", subject="CN=张三")
    shelf.certificate(pki.key(), b"\x0b", subject="CN=李四", not_before=pki.NOW - timedelta(hours=1))
    assert [shelf.choose(choice=KeyChoice(bytes([one]))).facts.subject_text() for one in (10, 11)] == [
        "CN=张三",
        "CN=李四",
    ]


def test_by_label(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三", label="first")
    shelf.pair(1, subject="CN=李四", label="second")
    assert shelf.choose(choice=KeyChoice(label="second")).key_id == "02"


@pytest.mark.parametrize("choice", [KeyChoice(b"\x07"), KeyChoice(label="nobody's"), KeyChoice(b"\x01", "nobody's")])
def test_a_choice_that_is_not_there(shelf: Shelf, choice: KeyChoice) -> None:
    shelf.pair(label="first")
    with pytest.raises(CertificateNotFound) as caught:
        shelf.choose(choice=choice)
    assert "candidates" in caught.value.details


def test_a_choice_does_not_make_a_key_fit(shelf: Shelf) -> None:
    shelf.pair(key_usage=["digitalSignature"])
    with pytest.raises(CertificateNotFound) as caught:
        shelf.choose(choice=KeyChoice(b"\x01"))
    assert caught.value.code == "KEY_USE_NOT_ALLOWED"


# --- a certificate finds its key --------------------------------------------------------------------------------------


def test_an_equal_id_alone_does_not_prove_that_a_key_is_a_certificates(shelf: Shelf) -> None:
    shelf.key(pki.key(), shows_public=False)
    shelf.certificate(pki.key())
    session = SimpleNamespace(keys=lambda: tuple(shelf.keys))
    with pytest.raises(KeyMismatch):
        install(cast(Session, session), shelf.certificates[0].der)
