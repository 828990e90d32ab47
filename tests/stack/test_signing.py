"""The order shown is the order confirmed and signed; each way in which signing can end has its own error."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.stack.bench import Bench
from tests.unit.cms.pki import Authority, authority, der
from tests.unit.order.samples import live, payment
from ushield_hw import cms
from ushield_hw.certificates.certificate import install, request
from ushield_hw.cms import Confirmation, Profile
from ushield_hw.crypto.algorithms import KeyKind, KeySpec
from ushield_hw.drivers.family import ConfirmKind, ConfirmSpec, ConfirmText, Driver, HashOn, Kind, SignSpec
from ushield_hw.errors import (
    CertificateError,
    ConfirmationCancelled,
    ConfirmationRejected,
    ConfirmationTimedOut,
    InputError,
    ModuleMisbehaves,
    OutcomeUnknown,
    TokenRemoved,
    UShieldError,
)
from ushield_hw.interaction import ConfirmRequest, PinKind, PinRequest, TokenAction
from ushield_hw.order import DisplayProfile, Order, decode, screen_lines
from ushield_hw.signing.order import Attendance, SignedOrder, sign
from ushield_hw.testing.faulty import Call, corrupts, crashes, late, returns
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.session import Session, open_session
from ushield_hw.verifier import TrustStore, verify

pytestmark = pytest.mark.stack

CODES: Final = {
    "CKR_FUNCTION_FAILED": "rejected",
    "CKR_FUNCTION_CANCELED": "cancelled",
    "CKR_GENERAL_ERROR": "timed-out",
    "CKR_DEVICE_ERROR": "unknown",
    "CKR_DATA_INVALID": "content-refused",
    "CKR_TOKEN_NOT_RECOGNIZED": "key-refused",
}


@pytest.fixture(scope="session")
def bank() -> Authority:
    return authority()


@pytest.fixture
def desk(bench: Bench, bank: Authority) -> Iterator[OpenToken]:
    """A token with a certificate for each of its keys, and a user at the host."""
    desk = OpenToken(bench, bank)
    desk.enrol()
    yield desk


class OpenToken:
    """The token behind the faulty module, with a driver that the test chooses."""

    def __init__(self, bench: Bench, bank: Authority) -> None:
        self.bench = bench
        self.bank = bank
        self.driver: Driver = bench.link.driver
        self.trust = TrustStore([bank.der])

    def enrol(self) -> None:
        with open_session(self.bench.link, Scripted(self.bench.soft.pin), "install") as session:
            for number, label in enumerate(("pay", "rsa", "each"), start=1):
                record = next(key for key in session.keys() if not key.private and key.label == label)
                public = public_key(record.kind, record.public or b"")
                issued = self.bank.issue(f"CN=张三 {label}", public, key_usage=["nonRepudiation"], serial=1000 + number)
                install(session, der(issued))

    def opened(self, person: Scripted) -> Session:
        self.bench.faulty.clear()
        return open_session(replace(self.bench.link, driver=self.driver), person, "sign")

    def sign(self, person: Scripted, order: Order | None = None, label: str = "pay", **how: Any) -> SignedOrder:
        with self.opened(person) as session:
            return sign(order or fresh(), session, key=KeyChoice(label=label), **how)

    def asking(self, text: ConfirmText = ConfirmText.HOST, **more: Any) -> None:
        """From here on the driver says that the token asks for confirmation."""
        kind = ConfirmKind.DISPLAY if text is ConfirmText.MESSAGE else ConfirmKind.BUTTON
        confirm = ConfirmSpec(kind, text, 5, dict(CODES))
        self.driver = replace(self.driver, kind=Kind.TOKEN, confirm=confirm, **more)

    def signed_by_token(self) -> list[Call]:
        return [call for call in self.bench.faulty.calls if call.function == "C_Sign"]


def public_key(kind: KeyKind | None, public: bytes) -> Any:
    if kind is KeyKind.RSA:
        return rsa.RSAPublicNumbers(65537, int.from_bytes(public)).public_key()
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)


def fresh(**changes: object) -> Order:
    return payment(**{**live(datetime.now(UTC)), **changes})


def person(desk: OpenToken, *confirms: bool) -> Scripted:
    return Scripted(desk.bench.soft.pin, confirms=confirms)


# -- the same bytes throughout -----------------------------------------------------------------------------------------


def test_cades_what_was_shown_is_in_the_digest_that_reached_c_sign(desk: OpenToken) -> None:
    somebody = person(desk, True)
    signed = desk.sign(somebody)
    parts = cms.parse(signed.der)
    (asked,) = desk.signed_by_token()
    assert asked.data == hashlib.sha256(parts.signed_bytes).digest()
    assert hashlib.sha256(parts.content).digest() in parts.signed_bytes
    assert somebody.shown[0].lines == screen_lines(parts.content, "en")
    assert (parts.profile, parts.confirmation) == (Profile.CADES, Confirmation.HOST)


@pytest.mark.parametrize("attendance", Attendance)
def test_a_token_that_does_not_show_what_it_signs_makes_no_plain_one(desk: OpenToken, attendance: Attendance) -> None:
    somebody, order = person(desk), fresh()
    with pytest.raises(InputError) as caught:
        desk.sign(somebody, order, profile=Profile.PLAIN, attendance=attendance)
    assert caught.value.code == "PROFILE_PLAIN_NOT_POSSIBLE"
    assert desk.signed_by_token() == []
    assert "confirm ushield.payment/1?" not in somebody.prompts
    made = desk.sign(person(desk, True), order)
    assert desk.sign(person(desk), order, profile=Profile.PLAIN, attendance=attendance).der == made.der


@pytest.mark.parametrize("format_name", ["jcs", "xml-tdm"])
def test_a_token_that_shows_the_message_gets_the_message_and_nobody_is_asked_on_the_host(
    desk: OpenToken, format_name: str
) -> None:
    desk.asking(ConfirmText.MESSAGE, sign=SignSpec(HashOn.TOKEN), display=DisplayProfile(format_name))
    somebody, order = person(desk), fresh()
    signed = desk.sign(somebody, order, "rsa")
    (asked,) = desk.signed_by_token()
    assert asked.data is not None
    assert decode(asked.data) == (format_name, order)
    assert somebody.prompts == ["user PIN to sign, 6 left", "compare ushield.payment/1 on the token"]
    assert somebody.shown[0].lines == screen_lines(asked.data, "en")
    assert (signed.profile, signed.confirmation) == (Profile.PLAIN, None)
    assert verify(signed, trust=desk.trust, expected=order).format == format_name


def test_a_token_that_shows_the_message_never_signs_attributes(desk: OpenToken) -> None:
    desk.asking(ConfirmText.MESSAGE, sign=SignSpec(HashOn.TOKEN))
    with pytest.raises(InputError) as caught:
        desk.sign(person(desk), label="rsa", profile=Profile.CADES)
    assert caught.value.code == "PROFILE_NOT_POSSIBLE"
    assert desk.signed_by_token() == []


def test_nobody_at_the_host_is_said_in_the_signature(desk: OpenToken) -> None:
    somebody = person(desk)
    signed = desk.sign(somebody, attendance=Attendance.NOBODY)
    assert verify(signed, trust=desk.trust).confirmation is Confirmation.NONE
    assert somebody.prompts == ["user PIN to sign, 6 left"]


def test_a_button_on_the_token_is_said_in_the_signature(desk: OpenToken) -> None:
    desk.asking()
    assert desk.sign(person(desk, True)).confirmation is Confirmation.BUTTON


# -- the dialogue ------------------------------------------------------------------------------------------------------


def test_the_person_is_asked_for_the_pin_and_then_once_about_the_order(desk: OpenToken) -> None:
    somebody = person(desk, True)
    desk.sign(somebody)
    assert somebody.prompts == ["user PIN to sign, 6 left", "confirm ushield.payment/1?"]


def test_a_key_that_wants_the_pin_for_each_signature_asks_after_the_order(desk: OpenToken) -> None:
    somebody = Scripted(desk.bench.soft.pin, desk.bench.soft.pin, confirms=[True])
    verify(desk.sign(somebody, label="each"), trust=desk.trust)
    assert somebody.prompts == [
        "user PIN to sign, 6 left",
        "confirm ushield.payment/1?",
        "context PIN to sign, 6 left",
    ]
    assert len(desk.signed_by_token()) == 1


def test_a_no_on_the_host_reaches_no_token(desk: OpenToken) -> None:
    with pytest.raises(ConfirmationRejected):
        desk.sign(person(desk, False))
    assert desk.signed_by_token() == []


def test_an_order_that_expires_while_the_person_reads_is_not_signed(desk: OpenToken) -> None:
    now = datetime.now(UTC)
    soon = (now + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")

    class Reader(Scripted):
        def confirm_order(self, ask: ConfirmRequest) -> bool:
            threading.Event().wait((order.expires - datetime.now(UTC)).total_seconds())
            return super().confirm_order(ask)

    order = fresh(expires=soon)
    with pytest.raises(InputError) as caught:
        desk.sign(Reader(desk.bench.soft.pin, confirms=[True]), order)
    assert caught.value.code == "ORDER_EXPIRED"
    assert desk.signed_by_token() == []


def test_an_order_that_expires_at_the_last_pin_prompt_is_not_signed(desk: OpenToken) -> None:
    """The key requires its PIN for each signature: that prompt comes after the confirmation."""
    order = fresh(expires=(datetime.now(UTC) + timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ"))

    class Slow(Scripted):
        def request_pin(self, ask: PinRequest) -> str | None:
            if ask.kind is PinKind.CONTEXT:
                threading.Event().wait((order.expires - datetime.now(UTC)).total_seconds())
            return super().request_pin(ask)

    with pytest.raises(InputError) as caught:
        desk.sign(Slow(desk.bench.soft.pin, desk.bench.soft.pin, confirms=[True]), order, "each")
    assert caught.value.code == "ORDER_EXPIRED"
    assert desk.signed_by_token() == []
    assert desk.bench.link.pin.state().low is False, "the PIN was not sent: no try was spent"


def test_ctrl_c_at_the_last_pin_prompt_has_signed_nothing(desk: OpenToken) -> None:
    order = fresh()

    class Leaves(Scripted):
        def request_pin(self, ask: PinRequest) -> str | None:
            if ask.kind is PinKind.CONTEXT:
                raise KeyboardInterrupt
            return super().request_pin(ask)

    with pytest.raises(KeyboardInterrupt):
        desk.sign(Leaves(desk.bench.soft.pin, confirms=[True]), order, "each")
    assert desk.signed_by_token() == []
    somebody = Scripted(desk.bench.soft.pin, desk.bench.soft.pin, confirms=[True])
    assert desk.sign(somebody, order, "each").replayed is False


def test_a_token_that_takes_its_time_is_told_of_once(desk: OpenToken) -> None:
    desk.asking()
    desk.bench.plan("C_Sign", None, late(1.2))
    somebody = person(desk, True)
    desk.sign(somebody)
    assert somebody.prompts[-1] == "waiting: button"
    assert somebody.prompts.count("waiting: button") == 1


def test_a_quick_token_is_not_told_of(desk: OpenToken) -> None:
    desk.asking()
    somebody = person(desk, True)
    desk.sign(somebody)
    assert "waiting: button" not in somebody.prompts


def test_cancelling_while_the_token_works_leaves_the_outcome_unknown(desk: OpenToken) -> None:
    desk.asking()
    desk.bench.plan("C_Sign", None, late(30))

    class Impatient(Scripted):
        def waiting_for_token(self, action: TokenAction) -> None:
            super().waiting_for_token(action)
            assert not action.can_cancel
            action.cancel()

    order = fresh()
    with pytest.raises(OutcomeUnknown) as caught:
        desk.sign(Impatient(desk.bench.soft.pin, confirms=[True]), order)
    assert caught.value.tx_id == order.tx_id


# -- outcomes ----------------------------------------------------------------------------------------------------------

ENDS: Final = [
    ("CKR_FUNCTION_FAILED", ConfirmationRejected, "CONFIRMATION_REJECTED"),
    ("CKR_FUNCTION_CANCELED", ConfirmationCancelled, "CONFIRMATION_CANCELLED"),
    ("CKR_GENERAL_ERROR", ConfirmationTimedOut, "CONFIRMATION_TIMED_OUT"),
    ("CKR_DEVICE_ERROR", OutcomeUnknown, "OUTCOME_UNKNOWN"),
    ("CKR_DEVICE_REMOVED", TokenRemoved, "TOKEN_REMOVED"),
    ("CKR_DATA_INVALID", ConfirmationRejected, "CONTENT_REFUSED"),
    ("CKR_TOKEN_NOT_RECOGNIZED", CertificateError, "KEY_REFUSED"),
]


@pytest.mark.parametrize(("answer", "error", "code"), ENDS)
def test_each_outcome_is_an_error_of_its_own_and_the_token_was_asked_once(
    desk: OpenToken, answer: str, error: type[UShieldError], code: str
) -> None:
    desk.asking()
    desk.bench.plan("C_Sign", None, returns(answer))
    with pytest.raises(error) as caught:
        desk.sign(person(desk, True))
    assert type(caught.value) is error
    assert caught.value.code == code
    assert len(desk.signed_by_token()) == 1


@pytest.mark.parametrize("answer", [end[0] for end in ENDS if end[1] is not OutcomeUnknown])
def test_what_was_surely_not_signed_may_be_asked_again(desk: OpenToken, answer: str) -> None:
    desk.asking()
    order = fresh()
    desk.bench.plan("C_Sign", 1, returns(answer, after=True))
    with pytest.raises(UShieldError):
        desk.sign(person(desk, True), order)
    desk.bench.faulty.plan([])
    verify(desk.sign(person(desk, True), order), trust=desk.trust, expected=order)


def lost(desk: OpenToken) -> Order:
    """Sign an order with a token whose answer is lost."""
    order = fresh()
    desk.bench.plan("C_Sign", None, crashes(after=True))
    with pytest.raises(OutcomeUnknown) as caught:
        desk.sign(person(desk, True), order)
    assert caught.value.tx_id == order.tx_id
    desk.bench.faulty.plan([])
    return order


def test_what_may_have_been_signed_is_not_asked_again(desk: OpenToken) -> None:
    order = lost(desk)
    with pytest.raises(OutcomeUnknown) as caught:
        desk.sign(person(desk), order)
    assert caught.value.code == "OUTCOME_STILL_UNKNOWN"
    assert desk.signed_by_token() == []


def test_an_unknown_outcome_does_not_stop_another_order(desk: OpenToken) -> None:
    lost(desk)
    verify(desk.sign(person(desk, True), fresh(tx_id=str(uuid.uuid4()))), trust=desk.trust)


def test_an_unknown_outcome_does_not_stop_another_persons_certificate(desk: OpenToken) -> None:
    order = lost(desk)
    verify(desk.sign(person(desk, True), order, "rsa"), trust=desk.trust, expected=order)


@pytest.mark.parametrize("hardware", [True, False])
def test_a_signature_that_does_not_verify_goes_nowhere(desk: OpenToken, hardware: bool) -> None:
    """The order may be signed again: no valid signature was made."""
    if hardware:
        desk.asking()
    order = fresh()
    desk.bench.plan("C_Sign", None, corrupts())
    with pytest.raises(ModuleMisbehaves):
        desk.sign(person(desk, True), order)
    desk.bench.faulty.plan([])
    again = desk.sign(person(desk, True), order)  # an unknown outcome would forbid it
    assert verify(again, trust=desk.trust, expected=order)


def test_a_request_whose_signature_does_not_verify_is_none_and_its_key_goes(bench: Bench) -> None:
    bench.plan("C_Sign", None, corrupts())
    with open_session(bench.link, Scripted(bench.soft.pin), "request") as session:
        before = session.keys()
        with pytest.raises(ModuleMisbehaves):
            request(session, KeySpec.EC_P256, "CN=张三")
        assert session.keys() == before


def test_the_same_order_again_is_not_asked_again_even_after_its_time(desk: OpenToken) -> None:
    order = fresh()
    first = desk.sign(person(desk, True), order)
    somebody = person(desk)
    again = desk.sign(somebody, order)
    assert (again.der, again.replayed) == (first.der, True)
    assert desk.signed_by_token() == []
    assert somebody.prompts == ["user PIN to sign, 6 left"]
