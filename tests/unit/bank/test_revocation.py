"""Revocation and the CRL, read by the project's verifier and by cryptography. With SQLite and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509

from tests.unit.bank.world import Bank, Dies, SoftKey
from tests.unit.order.samples import live, make_payment
from ushield_hw.bank.ca.certificates import State
from ushield_hw.bank.ca.revocation import CRL_LIFE, crl, revoke
from ushield_hw.bank.values import REASONS
from ushield_hw.errors import RequestRefused, Revoked, VerificationError
from ushield_hw.order import Order
from ushield_hw.verifier import Revocation, TrustStore, verify

pytestmark = pytest.mark.unit


def number(der: bytes) -> int:
    read = x509.load_der_x509_crl(der)
    return read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def serials(der: bytes) -> set[str]:
    return {f"{one.serial_number:x}" for one in x509.load_der_x509_crl(der)}


def test_an_empty_crl_is_kept_until_shortly_before_its_time_is_over(bank: Bank) -> None:
    first = crl(bank.service)
    assert (number(first), serials(first)) == (1, set())
    bank.clock.on(seconds=CRL_LIFE.total_seconds() - 3601)
    assert crl(bank.service) == first
    bank.clock.on(seconds=2)
    second = crl(bank.service)
    assert number(second) == 2
    assert x509.load_der_x509_crl(second).next_update_utc == bank.clock() + CRL_LIFE


@pytest.mark.parametrize("reason", REASONS)
def test_a_revocation_is_in_the_next_crl(bank: Bank, old: SoftKey, reason: str) -> None:
    crl(bank.service)
    certificate = bank.enrolled(old)
    done = revoke(bank.database, certificate.serial.upper().zfill(42), reason, bank.clock())
    assert (done.certificate.state, done.certificate.reason, done.replayed) == (State.REVOKED, reason, False)
    listed = crl(bank.service)
    assert (number(listed), serials(listed)) == (2, {certificate.serial})
    assert crl(bank.service) == listed


def test_revoked_again_changes_nothing(bank: Bank, old: SoftKey) -> None:
    certificate = bank.enrolled(old)
    first = revoke(bank.database, certificate.serial, "keyCompromise", bank.clock())
    kept = crl(bank.service)
    bank.clock.on(minutes=5)
    again = revoke(bank.database, certificate.serial, "superseded", bank.clock())
    assert again.replayed
    assert again.certificate == first.certificate
    assert crl(bank.service) == kept


def test_an_unknown_serial_number(bank: Bank) -> None:
    for serial in ("12", "", "0", "xyz"):
        with pytest.raises(RequestRefused) as caught:
            revoke(bank.database, serial, "unspecified", bank.clock())
        assert caught.value.code == "CERTIFICATE_UNKNOWN"


def test_renewals_that_are_not_in_use_go_with_it(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    done = revoke(bank.database, first.serial, "keyCompromise", bank.clock())
    assert [one.serial for one in done.also] == [second.serial]
    assert done.successor is None
    assert serials(crl(bank.service)) == {first.serial, second.serial}


def test_the_successor_in_use_is_named_and_left(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    bank.activated(new, second)
    done = revoke(bank.database, first.serial, "keyCompromise", bank.clock())
    assert done.successor is not None and done.successor.serial == second.serial
    assert serials(crl(bank.service)) == {first.serial}


def test_a_number_that_was_begun_and_lost_is_never_used_again(bank: Bank, old: SoftKey) -> None:
    first = crl(bank.service)
    certificate = bank.enrolled(old)
    revoke(bank.database, certificate.serial, "keyCompromise", bank.clock())
    bank.key.dies_after = bank.key.signatures
    with pytest.raises(Dies):
        crl(bank.service)
    bank.key.dies_after = None
    assert number(crl(bank.service)) > number(first) + 1


def test_many_at_once_get_one_crl(bank: Bank) -> None:
    _ = bank.service
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(lambda _: crl(bank.service), range(12)))) == 1


def test_our_verifier_goes_by_it(bank: Bank, old: SoftKey) -> None:
    certificate = bank.enrolled(old)
    order = Order.from_json(make_payment(**live(bank.clock())))
    signed = old.cms(certificate.signed, order.canonical)

    def trust() -> TrustStore:
        return TrustStore([bank.ca], crls=[crl(bank.service)])

    good = verify(signed, trust=trust(), expected=order, at=bank.clock())
    assert (good.revocation, good.signer.serial) == (Revocation.GOOD, certificate.serial)
    bank.clock.on(minutes=1)
    revoke(bank.database, certificate.serial, "keyCompromise", bank.clock())
    with pytest.raises(Revoked) as caught:
        verify(signed, trust=trust(), at=bank.clock())
    assert caught.value.details["reason"] == "keyCompromise"
    bank.clock.on(minutes=-1)
    verify(signed, trust=trust(), at=bank.clock())  # it was good before that


def test_a_login_key_signs_no_payment(bank: Bank, old: SoftKey) -> None:
    certificate = bank.enrolled(old, profile="login")
    order = Order.from_json(make_payment(**live(bank.clock())))
    with pytest.raises(VerificationError) as caught:
        verify(old.cms(certificate.signed, order.canonical), trust=bank.service.trust, at=bank.clock())
    assert caught.value.details["reason"] == "key_usage"
