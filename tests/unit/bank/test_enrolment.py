"""First certificates and their one-time codes. With SQLite and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from tests.unit.bank.world import SUBJECT, Bank, Dies, SoftKey
from ushield_hw.bank.ca import codes, enrolment
from ushield_hw.bank.ca.certificates import Certificate, State, listed
from ushield_hw.bank.ca.tables import CODES, FAILURES
from ushield_hw.cms import CertificateFacts
from ushield_hw.errors import InputError, RequestRefused

pytestmark = pytest.mark.unit


def enrol(bank: Bank, key: SoftKey, code: str, customer: str = "C1", subject: str = SUBJECT) -> Certificate:
    return enrolment.enrol(bank.service, key.pkcs10(subject), customer, code)


def refused(bank: Bank, key: SoftKey, code: str, customer: str = "C1", subject: str = SUBJECT) -> str:
    with pytest.raises(RequestRefused) as caught:
        enrol(bank, key, code, customer, subject)
    return caught.value.code


def certificates(bank: Bank) -> tuple[Certificate, ...]:
    with bank.database.reading() as connection:
        return listed(connection)


def test_a_certificate_for_a_code(bank: Bank, new: SoftKey) -> None:
    code = bank.code(profile="login", confirmation="pinpad", display=True, token_serial="T1", certificate_days=30)
    found = enrol(bank, new, code)
    assert (found.state, found.profile, found.customer) == (State.ACTIVE, "login", "C1")
    assert (found.confirmation, found.display, found.token_serial) == ("pinpad", True, "T1")
    facts = CertificateFacts.read(found.signed)
    assert (facts.serial_hex, facts.spki, facts.subject_text()) == (found.serial, new.spki, SUBJECT)
    assert facts.key_usage == frozenset({"digitalSignature"})
    assert (facts.not_before, facts.not_after) == (found.not_before, found.not_after)
    assert (facts.not_after - bank.clock()).days == 30


def test_the_same_request_gets_the_same_certificate_also_when_the_code_is_over(bank: Bank, new: SoftKey) -> None:
    code = bank.code()
    first = enrol(bank, new, code)
    bank.clock.on(days=8)
    again = enrol(bank, new, code)
    assert again.der == first.der
    assert len(certificates(bank)) == 1


def test_a_code_is_good_once(bank: Bank, old: SoftKey, new: SoftKey) -> None:
    code = bank.code()
    enrol(bank, old, code)
    assert refused(bank, new, code) == "CODE_USED"


def test_a_code_ends(bank: Bank, new: SoftKey) -> None:
    code = bank.code()
    bank.clock.on(days=7)
    assert refused(bank, new, code) == "CODE_EXPIRED"


def test_a_code_is_its_customer_s(bank: Bank, new: SoftKey) -> None:
    assert refused(bank, new, bank.code(), customer="C2") == "CODE_WRONG"


def test_the_subject_is_the_bank_s_decision(bank: Bank, new: SoftKey) -> None:
    code = bank.code()
    assert refused(bank, new, code, subject="CN=李四,O=Demo Bank") == "SUBJECT_MISMATCH"
    assert refused(bank, new, code, subject="O=Demo Bank,CN=张三") == "SUBJECT_MISMATCH"
    enrol(bank, new, code)  # the code was not used up


def test_a_key_is_certified_once(bank: Bank, new: SoftKey) -> None:
    enrol(bank, new, bank.code())
    assert refused(bank, new, bank.code(), customer="C1") == "KEY_REUSED"
    assert refused(bank, new, bank.code(customer="C2"), customer="C2") == "KEY_REUSED"


def test_wrong_codes_are_limited_for_a_while(bank: Bank, new: SoftKey) -> None:
    code = bank.code()
    for _ in range(codes.MOST_FAILURES):
        assert refused(bank, new, codes.new_code()) == "CODE_WRONG"
    assert refused(bank, new, code) == "CODES_TOO_MANY"
    assert refused(bank, new, codes.new_code(), customer="C2") == "CODE_WRONG"  # other customers are not locked out
    bank.clock.on(seconds=codes.WINDOW.total_seconds() - 1)
    assert refused(bank, new, code) == "CODES_TOO_MANY"
    bank.clock.on(seconds=1)
    enrol(bank, new, code)


def test_a_customer_that_is_not_known_looks_like_any_other(bank: Bank, new: SoftKey) -> None:
    for _ in range(codes.MOST_FAILURES):
        assert refused(bank, new, codes.new_code(), customer="nobody") == "CODE_WRONG"
    assert refused(bank, new, codes.new_code(), customer="nobody") == "CODES_TOO_MANY"


def test_counts_of_wrong_codes_go_with_their_window(bank: Bank, new: SoftKey) -> None:
    for name in ("a", "b", "c", "d"):
        bank.code(customer=name)
    for name in ("a", "b", "c"):
        refused(bank, new, codes.new_code(), customer=name)
    bank.clock.on(minutes=15)
    refused(bank, new, codes.new_code(), customer="d")
    with bank.database.reading() as connection:
        assert len(connection.execute(select(FAILURES)).all()) == 1


def test_wrong_codes_for_unknown_customers_leave_nothing_in_the_register(bank: Bank, new: SoftKey) -> None:
    for number in range(5):
        refused(bank, new, codes.new_code(), customer=f"stranger {number}")
    with bank.database.reading() as connection:
        assert connection.execute(select(FAILURES)).all() == []


def test_the_count_for_unknown_customers_is_bounded() -> None:
    unknown, now = codes.UnknownCustomers(), datetime.now(UTC)
    for number in range(codes._MOST_UNKNOWN + 10):
        unknown.note(f"S{number}", now)
    assert len(unknown._counts) == codes._MOST_UNKNOWN
    for _ in range(codes.MOST_FAILURES):
        unknown.note("late", now)
    assert unknown.wait("late", now) == codes.WINDOW
    assert unknown.wait("late", now + codes.WINDOW) is None


def test_the_code_is_not_in_the_database(bank: Bank) -> None:
    code = bank.code()
    with bank.database.reading() as connection:
        kept = str(connection.execute(select(CODES)).all())
    assert code not in kept and code.replace("-", "") not in kept


def test_a_process_that_dies_while_signing_leaves_one_serial_number(bank: Bank, new: SoftKey) -> None:
    code, _ = bank.code(), bank.service
    bank.key.dies_after = bank.key.signatures
    with pytest.raises(Dies):
        enrol(bank, new, code)
    (reserved,) = certificates(bank)
    assert (reserved.state, reserved.der) == (State.RESERVED, None)
    bank.key.dies_after = None
    bank.clock.on(hours=1)
    found = enrol(bank, new, code)
    assert found.serial == reserved.serial
    facts = CertificateFacts.read(found.signed)
    assert (facts.serial_hex, facts.not_after) == (reserved.serial, reserved.not_after)


def test_many_at_once_with_one_code_get_one_certificate(bank: Bank, new: SoftKey) -> None:
    code, _ = bank.code(), bank.service.trust
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: enrol(bank, new, code), range(12)))
    assert len({one.der for one in found}) == 1
    assert len(certificates(bank)) == 1


def test_many_keys_at_once_with_one_code_one_wins(bank: Bank) -> None:
    code, _ = bank.code(), bank.service.trust

    def attempt(_: int) -> str:
        try:
            return enrol(bank, SoftKey(), code).serial
        except RequestRefused as error:
            return error.code

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(attempt, range(8)))
    (made,) = certificates(bank)
    assert sorted(set(answers)) == sorted({made.serial, "CODE_USED"})
    assert answers.count(made.serial) == 1


def test_one_key_at_once_with_codes_of_two_customers(bank: Bank, new: SoftKey) -> None:
    given_out, _ = {"C1": bank.code(), "C2": bank.code(customer="C2")}, bank.service.trust

    def attempt(customer: str) -> str:
        try:
            return enrol(bank, new, given_out[customer], customer).state
        except RequestRefused as error:
            return error.code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(attempt, given_out)) == ["KEY_REUSED", "active"]


@pytest.mark.parametrize(
    "subject", ["", "张三", "CN=", "CN=张\u202e三", "CN=" + "x" * 150], ids=["empty", "bare", "blank", "bidi", "long"]
)
def test_subjects_that_no_screen_could_show(subject: str) -> None:
    with pytest.raises(InputError):
        codes.registered_name(subject)


@pytest.mark.parametrize("customer", ["", "a b", "x" * 36, "张三"])
def test_numbers_that_no_customer_has(bank: Bank, customer: str) -> None:
    with pytest.raises(InputError):
        bank.code(customer=customer)


def test_codes_are_read_as_people_type_them(bank: Bank, new: SoftKey) -> None:
    code = bank.code()
    typed = code.lower().replace("0", "o").replace("1", "l").replace("-", " ")
    enrol(bank, new, typed)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_two_customers_share_a_code(one: str, two: str) -> None:
    code = codes.new_code()
    same = codes._digest(one, code) == codes._digest(two, code)
    assert same == (one == two)


def test_codes_differ_and_are_long() -> None:
    made = {codes.new_code() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(code.replace("-", "")) == 20 for code in made)
