"""Renewal: authorisation, refusals, and idempotence of every step. With SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.bank.world import ORIGIN, SUBJECT, Bank, Dies, SoftKey
from ushield_hw.bank.ca import certificates as certificates_of_bank
from ushield_hw.bank.ca import renewal
from ushield_hw.bank.ca.authority import Wanted
from ushield_hw.bank.ca.certificates import FOLLOWS, Certificate, State, by_serial, listed, move
from ushield_hw.bank.ca.profiles import PAYMENT
from ushield_hw.bank.ca.revocation import revoke
from ushield_hw.bank.ca.service import Policy
from ushield_hw.bank.database import Database
from ushield_hw.cms import CertificateFacts, Profile
from ushield_hw.errors import RequestRefused
from ushield_hw.order import Order
from ushield_hw.order.formats import message_format

pytestmark = pytest.mark.unit


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(RequestRefused) as caught:
        work()
    return caught.value.code


def state(bank: Bank, serial: str) -> State:
    with bank.database.reading() as connection:
        found = by_serial(connection, serial)
    assert found is not None
    return found.state


def certificates(bank: Bank) -> tuple[Certificate, ...]:
    with bank.database.reading() as connection:
        return listed(connection)


# --- complete renewal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["payment", "login"])
def test_the_whole_way(bank: Bank, old: SoftKey, new: SoftKey, profile: str) -> None:
    first = bank.enrolled(old, profile=profile, confirmation="touch", display=False, token_serial="T1")
    bank.clock.on(days=300)
    second = bank.renewed(old, first, new)
    assert (second.state, state(bank, first.serial)) == (State.ISSUED, State.ACTIVE)
    assert second.device == first.device
    assert (second.customer, second.replaces) == ("C1", first.serial)
    before, after = CertificateFacts.read(first.signed), CertificateFacts.read(second.signed)
    assert (after.subject, after.issuer, after.key_usage) == (before.subject, before.issuer, before.key_usage)
    assert after.not_after > before.not_after and after.spki == new.spki and after.serial != before.serial
    done = bank.activated(new, second)
    assert done.to_json() == {
        "state": "active",
        "serial": second.serial,
        "replaces": first.serial,
        "activated": "2027-09-20T02:00:00Z",
    }
    assert (state(bank, first.serial), state(bank, second.serial)) == (State.SUPERSEDED, State.ACTIVE)


def test_the_document_is_canonical_and_about_the_certificate(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    data = renewal.document(bank.service, new.spki_sha256)
    order = Order.parse(data)
    assert (order.canonical, order.type) == (data, "ushield.renewal/1")
    assert (order.bank_id, order.origin) == ("demo-bank", ORIGIN)
    assert order["certificate.subject"] == SUBJECT
    assert order["certificate.sha256"] == hashlib.sha256(second.signed).hexdigest()
    assert (order["certificate.serial"], order["replaces.serial"]) == (second.serial, first.serial)
    order.check_live(bank.clock())
    assert order.expires - order.created == renewal.DOCUMENT_LIFE


def test_renewed_again_and_again(bank: Bank, old: SoftKey) -> None:
    key, certificate = old, bank.enrolled(old)
    for _ in range(3):
        following = SoftKey()
        renewed = bank.renewed(key, certificate, following)
        bank.activated(following, renewed)
        key, certificate = following, renewed
    assert [one.state for one in certificates(bank)] == [State.SUPERSEDED] * 3 + [State.ACTIVE]


def test_at_once_the_new_one_still_outlasts_the_old_one(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    assert bank.renewed(old, first, new).not_after > first.not_after


def test_other_forms_of_the_signature(bank: Bank, old: SoftKey) -> None:
    """A token with a display makes plain signatures, and may sign the document in another message format."""
    new = SoftKey(rsa.generate_private_key(65537, 2048))
    first = bank.enrolled(old)
    second = renewal.renew(bank.service, old.cms(first.signed, new.pkcs10(), Profile.PLAIN))
    order = Order.parse(renewal.document(bank.service, new.spki_sha256))
    content = message_format("xml-tdm").encode(order, "zh")
    renewal.activate(bank.service, new.spki_sha256, new.cms(second.signed, content, Profile.PLAIN))
    assert state(bank, second.serial) is State.ACTIVE


# --- repeated requests ------------------------------------------------------------------------------------------------


def test_the_same_key_gets_the_same_certificate_at_every_stage(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    assert bank.renewed(old, first, new).der == second.der  # another CMS and PKCS#10: ECDSA is randomised
    bank.activated(new, second)
    assert bank.renewed(old, first, new).der == second.der
    bank.clock.on(days=4 * 365)  # the old certificate has expired
    assert bank.renewed(old, first, new).der == second.der
    assert len(certificates(bank)) == 2


def test_the_same_document_until_its_time_is_over(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    bank.renewed(old, bank.enrolled(old), new)
    one = renewal.document(bank.service, new.spki_sha256)
    bank.clock.on(seconds=renewal.DOCUMENT_LIFE.total_seconds() - 1)
    assert renewal.document(bank.service, new.spki_sha256) == one
    bank.clock.on(seconds=1)
    other = renewal.document(bank.service, new.spki_sha256)
    assert other != one and Order.parse(other)["nonce"] != Order.parse(one)["nonce"]


def test_activated_again_is_the_same_answer_also_much_later(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    second = bank.renewed(old, bank.enrolled(old), new)
    signed = new.cms(second.signed, renewal.document(bank.service, new.spki_sha256))
    first_time = renewal.activate(bank.service, new.spki_sha256, signed)
    bank.clock.on(days=1)
    assert renewal.activate(bank.service, new.spki_sha256, signed) == first_time
    assert bank.activated(new, second) == first_time  # another document, signed again


def test_a_process_that_dies_while_signing_leaves_one_serial_number(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    bank.key.dies_after = bank.key.signatures
    with pytest.raises(Dies):
        bank.renewed(old, first, new)
    assert refusal(lambda: renewal.document(bank.service, new.spki_sha256)) == "RENEWAL_NOT_FOUND"
    (reserved,) = [one for one in certificates(bank) if one.state is State.RESERVED]
    bank.key.dies_after = None
    assert bank.renewed(old, first, new).serial == reserved.serial


def test_many_at_once_get_one_certificate(
    bank: Bank, opened: Callable[[], Database], old: SoftKey, new: SoftKey
) -> None:
    first = bank.enrolled(old)
    request = bank.request(old, first, new)
    elsewhere = Bank(opened(), bank.clock, bank.key)  # as another process, with separate connections
    elsewhere.__dict__["ca"] = bank.ca
    desks = [bank.service, elsewhere.service]
    _ = [service.trust for service in desks]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: renewal.renew(desks[n % 2], request).der, range(12)))
    assert len(set(found)) == 1 and found[0]
    assert len(certificates(bank)) == 2


def test_many_documents_at_once_are_one(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    bank.renewed(old, bank.enrolled(old), new)
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: renewal.document(bank.service, new.spki_sha256), range(12)))
    assert len(found) == 1


def test_two_activations_of_two_renewals_at_once_one_wins(bank: Bank, old: SoftKey) -> None:
    first, keys = bank.enrolled(old), [SoftKey(), SoftKey()]
    signed = []
    for key in keys:
        second = bank.renewed(old, first, key)
        signed.append(key.cms(second.signed, renewal.document(bank.service, key.spki_sha256)))

    def attempt(n: int) -> str:
        try:
            return renewal.activate(bank.service, keys[n].spki_sha256, signed[n]).serial
        except RequestRefused as error:
            return error.code

    with ThreadPoolExecutor(2) as pool:
        answers = set(pool.map(attempt, range(2)))
    assert "RENEWAL_CERTIFICATE_REVOKED" in answers  # the certificate of the abandoned renewal
    found = sorted(one.state for one in certificates(bank))
    assert found == [State.ACTIVE, State.REVOKED, State.SUPERSEDED]


# --- refused: the request ---------------------------------------------------------------------------------------------


def test_a_certificate_that_has_ended(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old, certificate_days=30)
    bank.clock.on(days=30)
    assert refusal(lambda: bank.renewed(old, first, new)) == "RENEWAL_CERTIFICATE_EXPIRED"


def test_a_certificate_that_is_revoked(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    revoke(bank.database, first.serial, "keyCompromise", bank.clock())
    assert refusal(lambda: bank.renewed(old, first, new)) == "RENEWAL_CERTIFICATE_REVOKED"


def test_a_certificate_that_is_replaced(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    bank.activated(new, bank.renewed(old, first, new))
    assert refusal(lambda: bank.renewed(old, first, SoftKey())) == "RENEWAL_SUPERSEDED"


def test_a_certificate_that_is_not_in_use_yet(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    second = bank.renewed(old, bank.enrolled(old), new)
    assert refusal(lambda: bank.renewed(new, second, SoftKey())) == "RENEWAL_NOT_ACTIVE"


def test_a_certificate_of_another_ca_with_the_same_name(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    bank.enrolled(SoftKey())
    other = Bank(bank.database, bank.clock)  # the same database, another CA key
    forged = replace(bank.enrolled(old), der=other.service.authority.issue(wish_of(bank.enrolled(SoftKey()), old)))
    assert refusal(lambda: bank.renewed(old, forged, new)) == "CERTIFICATE_UNKNOWN"


def wish_of(certificate: Certificate, key: SoftKey) -> Wanted:
    name = x509.Name.from_rfc4514_string(certificate.subject)
    serial = int(certificate.serial, 16)
    return Wanted(serial, name, key.spki, PAYMENT, certificate.not_before, certificate.not_after)


def test_the_old_key_did_not_sign(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    assert refusal(lambda: bank.renewed(SoftKey(), first, new)) == "PROOF_WRONG"


def test_the_new_key_did_not_sign(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    request = new.pkcs10().replace(new.spki, SoftKey().spki)
    assert refusal(lambda: renewal.renew(bank.service, old.cms(first.signed, request))) == "PROOF_WRONG"


def test_another_name(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    request = old.cms(first.signed, new.pkcs10("CN=李四,O=Demo Bank"))
    assert refusal(lambda: renewal.renew(bank.service, request)) == "SUBJECT_MISMATCH"


def test_another_customer_s_key(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    bank.enrolled(new, customer="C2")
    assert refusal(lambda: bank.renewed(old, first, new)) == "KEY_REUSED"


def test_a_key_that_another_renewal_asked_for(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    other = SoftKey()
    first, second = bank.enrolled(old), bank.enrolled(other, customer="C2")
    bank.renewed(old, first, new)
    assert refusal(lambda: bank.renewed(other, second, new)) == "KEY_REUSED"


def test_the_same_key_only_where_the_bank_allows_it(bank: Bank, old: SoftKey) -> None:
    first = bank.enrolled(old)
    assert refusal(lambda: bank.renewed(old, first, old)) == "KEY_REUSED"


def test_the_same_key_where_the_bank_allows_it(database: Database, old: SoftKey, new: SoftKey) -> None:
    bank = Bank(database, policy=Policy("demo-bank", ORIGIN, allow_same_key=True))
    certificate = bank.enrolled(old)
    bank.enrolled(new, customer="C2")
    for _ in range(2):
        renewed = bank.renewed(old, certificate, old)
        assert bank.renewed(old, certificate, old).der == renewed.der
        bank.activated(old, renewed)
        certificate = renewed
    assert refusal(lambda: bank.renewed(old, certificate, new)) == "KEY_REUSED"  # nor anyone else's


def test_not_without_end(bank: Bank, old: SoftKey) -> None:
    first = bank.enrolled(old)
    for _ in range(renewal.MOST_PENDING):
        bank.renewed(old, first, SoftKey())
    assert refusal(lambda: bank.renewed(old, first, SoftKey())) == "RENEWAL_TOO_MANY"


def test_the_ca_itself_ends(database: Database, old: SoftKey, new: SoftKey) -> None:
    bank = Bank(database, life=timedelta(days=100))
    first = bank.enrolled(old)  # its validity is limited to the CA's
    assert refusal(lambda: bank.renewed(old, first, new)) == "AUTHORITY_ENDS"


def test_something_else_in_the_container(bank: Bank, old: SoftKey) -> None:
    first = bank.enrolled(old)
    assert refusal(lambda: renewal.renew(bank.service, old.cms(first.signed, b"hello"))) == "REQUEST_MALFORMED"
    assert refusal(lambda: renewal.renew(bank.service, b"hello")) == "REQUEST_MALFORMED"
    assert refusal(lambda: renewal.renew(bank.service, b"")) == "REQUEST_MALFORMED"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 5000), by=st.integers(1, 255))
def test_no_changed_octet_gets_a_certificate(bank: Bank, at: int, by: int) -> None:
    old, new = SoftKey(), SoftKey()
    request = bytearray(bank.request(old, bank.enrolled(old), new))
    request[at % len(request)] ^= by
    code = refusal(lambda: renewal.renew(bank.service, bytes(request)))
    assert code in {"REQUEST_MALFORMED", "PROOF_WRONG", "CERTIFICATE_UNKNOWN"}


# --- refused: the activation ------------------------------------------------------------------------------------------


def test_no_renewal_no_document(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    assert refusal(lambda: renewal.document(bank.service, new.spki_sha256)) == "RENEWAL_NOT_FOUND"
    bank.enrolled(old)  # a first certificate is not a renewal
    assert refusal(lambda: renewal.document(bank.service, old.spki_sha256)) == "RENEWAL_NOT_FOUND"
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, b"")) == "RENEWAL_NOT_FOUND"


def test_activated_by_the_old_key(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    document = renewal.document(bank.service, new.spki_sha256)
    by_old = old.cms(first.signed, document)
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, by_old)) == "PROOF_WRONG"
    pretended = old.cms(second.signed, document)
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, pretended)) == "PROOF_WRONG"
    assert state(bank, second.serial) is State.ISSUED


def test_a_document_of_another_renewal(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    other_old, other_new = SoftKey(), SoftKey()
    second = bank.renewed(old, bank.enrolled(old), new)
    bank.renewed(other_old, bank.enrolled(other_old, customer="C2"), other_new)
    theirs = renewal.document(bank.service, other_new.spki_sha256)
    signed = new.cms(second.signed, theirs)
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, signed)) == "DOCUMENT_MISMATCH"


@pytest.mark.parametrize("change", ["origin", "expires", "nonsense", "made up"])
def test_a_document_that_the_bank_did_not_make(bank: Bank, old: SoftKey, new: SoftKey, change: str) -> None:
    second = bank.renewed(old, bank.enrolled(old), new)
    data = renewal.document(bank.service, new.spki_sha256)
    changed = {
        "origin": data.replace(b"bank.example", b"evil.example"),
        "expires": data.replace(b'"expires":"2026', b'"expires":"2036'),
        "nonsense": data[:-1],
        "made up": data.replace(b'"tx_id":"', b'"tx_id":"00000000-0000-4000-8000-000000000000","x":"'),
    }[change]
    signed = new.cms(second.signed, changed)
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, signed)) == "DOCUMENT_MISMATCH"
    assert state(bank, second.serial) is State.ISSUED


def test_too_late_and_then_with_a_new_document(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    second = bank.renewed(old, bank.enrolled(old), new)
    signed = new.cms(second.signed, renewal.document(bank.service, new.spki_sha256))
    bank.clock.on(minutes=12)
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, signed)) == "DOCUMENT_EXPIRED"
    bank.activated(new, second)


def test_the_old_one_was_revoked_meanwhile(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    signed = new.cms(second.signed, renewal.document(bank.service, new.spki_sha256))
    revoke(bank.database, first.serial, "keyCompromise", bank.clock())
    assert refusal(lambda: renewal.activate(bank.service, new.spki_sha256, signed)) == "RENEWAL_CERTIFICATE_REVOKED"
    assert refusal(lambda: renewal.document(bank.service, new.spki_sha256)) == "RENEWAL_CERTIFICATE_REVOKED"
    assert refusal(lambda: bank.renewed(old, first, new)) == "RENEWAL_CERTIFICATE_REVOKED"


def test_the_old_one_alone_was_revoked_meanwhile(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first = bank.enrolled(old)
    second = bank.renewed(old, first, new)
    with bank.database.writing() as connection:
        certificates_of_bank.revoke(connection, first, "keyCompromise", bank.clock())
    assert refusal(lambda: bank.activated(new, second)) == "RENEWAL_CERTIFICATE_REVOKED"


def test_what_was_given_up_is_revoked_when_another_is_put_into_use(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    first, given_up = bank.enrolled(old), SoftKey()
    left = bank.renewed(old, first, given_up)
    bank.activated(new, bank.renewed(old, first, new))
    assert state(bank, left.serial) is State.REVOKED
    assert refusal(lambda: renewal.document(bank.service, given_up.spki_sha256)) == "RENEWAL_CERTIFICATE_REVOKED"


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", State)
def test_states_follow_each_other_as_drawn(bank: Bank, before: State) -> None:
    for after in State:
        first = replace(bank.enrolled(SoftKey()), state=before)
        with bank.database.writing() as connection:
            if after in FOLLOWS[before]:
                assert move(connection, first, after, bank.clock()) == (before is State.ACTIVE)  # its actual state
            else:
                with pytest.raises(ValueError, match="->"):
                    move(connection, first, after, bank.clock())


def test_nothing_comes_back_from_revoked_and_nothing_goes_back_to_reserved() -> None:
    assert FOLLOWS[State.REVOKED] == frozenset()
    assert not any(State.RESERVED in following for following in FOLLOWS.values())
    assert set(FOLLOWS) == set(State)
