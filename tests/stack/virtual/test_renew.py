"""Certificate renewal on the virtual U-shield: confirmed on its screen, removed at any step, token full, CA refuses."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.rotation import share
from tests.stack.virtual.test_pulled_out_anywhere import Hand
from tests.unit.order.samples import live, payment
from ushield_hw.backend.module import close_modules
from ushield_hw.certificates import renewal
from ushield_hw.certificates.renewal import Step
from ushield_hw.certificates.renewal.record import Records
from ushield_hw.cms import parse
from ushield_hw.config import load_settings
from ushield_hw.errors import (
    ConfirmationRejected,
    ConfirmationTimedOut,
    TokenError,
    TokenFull,
    TokenRemoved,
)
from ushield_hw.signing.order import sign
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.card.ushield import _renewal_lines
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.token.choice import find_token
from ushield_hw.token.key_pairs import Pair
from ushield_hw.token.token import Token
from ushield_hw.verifier import TrustStore, verify

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


class Renewing:
    """A U-shield whose certificate is renewed by a test CA."""

    def __init__(self, shield: VirtualShield) -> None:
        self.shield = shield
        self.ca = Authority("Next CA")
        self.person = Scripted()
        self.issued: bytes | None = None
        self._days = count(400)  # each expires later than the one before

    @property
    def token(self) -> Token:
        return find_token(self.shield.uri)

    def pairs(self) -> tuple[Pair, ...]:
        return self.token.pairs()

    def in_use(self) -> Pair:
        (found,) = [pair for pair in self.pairs() if pair.activated]
        return found

    def whole(self, told: Callable[[Step], None] = lambda step: None, *, same_key: bool = False) -> renewal.Renewed:
        """Run or resume the whole renewal."""
        self.person = Scripted(*[self.shield.pin] * 12)
        with self.token.open(self.person, purpose="renew") as session:
            request = renewal.request(session, same_key=same_key, on_step=told)
            if self.issued is None:
                self.issued = self.certify(request)
            authority = self.ca.certificate.public_bytes(Encoding.DER)
            return renewal.install(session, self.issued, authorities=[authority], on_step=told)

    def certify(self, request: bytes) -> bytes:
        asked = x509.load_der_x509_csr(parse(request).content)
        assert asked.is_signature_valid
        public = asked.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return self.ca.issue(asked.subject, public, days=next(self._days)).public_bytes(Encoding.DER)

    def signs(self) -> None:
        """Sign an order with the pair in use, confirmed on the token."""
        close_modules()  # as another program: OpenSC must be reloaded to see a new certificate for an existing key
        order = payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4()))
        with self.token.open(Scripted(self.shield.pin, self.shield.pin)) as session:
            signed = sign(order, session)
        pem = self.ca.pem
        verified = verify(signed, trust=TrustStore([self.shield.ca_pem, pem]), expected=order)
        assert verified.signer.certificate == self.in_use().facts.der

    def on_card(self) -> tuple[int, int]:
        """Return the number of keys and certificates stored on the card."""
        memory = self.shield.card.memory
        certificates = [file for name, file in memory.files.items() if name >> 8 == 0xCE and file[:1] == b"\x30"]
        return len(memory.keys), len(certificates)  # OpenSC leaves the card's own request there for a new key


@pytest.fixture
def renewing(virtual_shield: VirtualShield) -> Iterator[Renewing]:
    virtual_shield.answer("ok")
    yield Renewing(virtual_shield)


# --- complete renewal -------------------------------------------------------------------------------------------------


def test_its_owner_sees_what_is_signed_and_the_old_pair_goes(renewing: Renewing) -> None:
    old, before = renewing.in_use(), renewing.shield.signatures
    done = renewing.whole()
    assert renewing.in_use().facts.der == renewing.issued == done.certificate.der != old.facts.der
    assert renewing.on_card() == (1, 1)
    assert renewing.shield.signatures - before == 3, "the request, the old key around it, the proof"
    shown = [[tuple(line) for line in ask.lines] for ask in renewing.person.shown]
    subject = old.facts.subject_text()
    assert shown[0] == shown[2] == [("Certificate request", subject)]
    assert shown[1][:2] == [
        ("Operation", "REQUEST A RENEWED CERTIFICATE - this is not a payment"),
        ("Certificate of", subject),
    ]
    renewing.signs()


def test_the_screen_says_it_is_no_payment_and_names_the_new_key(renewing: Renewing) -> None:
    screens: list[list[str]] = []
    panel, real = renewing.shield.card.panel, renewing.shield.card.panel.ask

    def ask(pages: tuple[tuple[str, ...], ...]) -> object:
        screens.append([row for page in pages for row in page])
        return real(pages)

    panel.ask = ask  # type: ignore[method-assign, assignment]
    renewing.whole()
    request, around, _ = ["".join(rows) for rows in screens]
    assert "申请证书" in request and "申请更新证书（不是付款）" in around and "新密钥" in around


def test_a_request_that_its_key_has_not_signed_has_nothing_to_show(renewing: Renewing) -> None:
    with renewing.token.open(Scripted(*[renewing.shield.pin] * 9)) as session:
        content = bytearray(parse(renewal.request(session)).content)
    assert len(list(_renewal_lines(bytes(content), "zh"))) == 3
    content[-1] ^= 1
    assert list(_renewal_lines(bytes(content), "zh")) == []


# --- removal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [step for step in Step if step not in {Step.BEGUN, Step.DONE, Step.GIVEN_UP}])
@pytest.mark.parametrize("same_key", [False, True], ids=["new key", "same key"])
def test_pulled_out_after_each_step(renewing: Renewing, step: Step, same_key: bool) -> None:
    def told(now: Step) -> None:
        if now is step:
            renewing.shield.eject()

    try:
        renewing.whole(told, same_key=same_key)
    except TokenError as error:
        assert error.code == "TOKEN_REMOVED"
    else:
        assert same_key and not step.before(Step.WRITTEN), "nothing is left to do on the token then"
        return
    renewing.shield.insert()
    assert renewing.in_use().has_key
    try:
        done = renewing.whole(same_key=same_key)
    except TokenRemoved:  # OpenSC checks for cards once a second, and may notice the removal at the next login
        done = renewing.whole(same_key=same_key)
    assert done.replayed is (step is Step.DONE)
    assert renewing.on_card() == (1, 1)
    assert renewing.in_use().facts.der == renewing.issued
    renewing.signs()


@pytest.mark.parametrize("turn", [1, 2], ids=["new key after the old", "new key before the old"])
def test_pulled_out_at_any_command(virtual_shield: VirtualShield, turn: int) -> None:
    """At every command that changes the card and at every fifth other one; each time from the same card state.

    OpenSC reads keys in the order of their numbers and stops at a partial certificate: so both orders are tested.
    """
    virtual_shield.answer("ok")
    renewing, hand = Renewing(virtual_shield), Hand(virtual_shield)
    memory = virtual_shield.card.memory
    if turn == 2:
        renewing.whole()
    before = deepcopy((memory.files, memory.keys))
    begin_anew(renewing)
    hand.heard.clear()
    renewing.whole()
    changing = [number for number, ins in enumerate(hand.heard, 1) if ins in CHANGING]
    reading = [number for number in range(1, len(hand.heard) + 1) if number not in changing]
    assert len(changing) > 5 and len(reading) > 40
    hidden = []
    for number in sorted([*changing, *share(reading, 20)]):
        memory.files, memory.keys = deepcopy(before)
        begin_anew(renewing)
        hand.at, hand.seen = number, 0
        with pytest.raises(TokenError):
            renewing.whole()
        hand.at = 0
        virtual_shield.insert()
        close_modules()
        if renewing.pairs() == ():
            hidden.append(number)  # hidden by a partial certificate
            assert renewal.is_under_way(load_settings(), find_token(virtual_shield.uri).info.identity)
        else:
            assert renewing.in_use().has_key, number
        until_done(renewing)
        (pair,) = renewing.pairs()
        assert pair.activated and pair.facts.der == renewing.issued, number
    renewing.signs()
    assert len(hidden) == turn - 1, "between the two commands that write a certificate"


CHANGING = frozenset({0x46, 0x68, 0xD7, 0xE4})  # generate key pair, sign, write, delete


def begin_anew(renewing: Renewing) -> None:
    """Forget the previous renewal, as another program on another host would."""
    for file in Records(load_settings())._folder().glob("*.json"):
        file.unlink()
    renewing.issued = None
    close_modules()


def until_done(renewing: Renewing) -> None:
    """Run the same command again, as another program; if a partial certificate blocks the renewal, restart it."""
    for _ in range(2):
        known = Records(load_settings()).of_token(find_token(renewing.shield.uri).info.identity)
        if known and known[0].step is Step.DONE:
            return
        try:
            renewing.whole()
        except TokenError as error:
            assert error.code in {"RENEWAL_NOT_WRITTEN", "RENEWAL_RUN_AGAIN"}
            if error.code == "RENEWAL_NOT_WRITTEN":
                renewing.issued = None
            close_modules()


# --- token full, refused, no user -------------------------------------------------------------------------------------


def test_without_room_what_was_begun_is_removed_and_the_key_may_stay(renewing: Renewing) -> None:
    old = renewing.in_use()
    renewing.shield.fill()
    with pytest.raises(TokenFull) as caught:
        renewing.whole()
    assert caught.value.code == "RENEWAL_NO_ROOM" and "same_key=True" in caught.value.remedy
    assert "--same-key" in caught.value.command_remedy
    assert renewing.in_use().facts.der == old.facts.der
    assert renewing.on_card() == (1, 1)
    renewing.signs()
    renewing.shield.card.memory.capacity = renewing.shield.card.memory.used + 100  # a new one may be slightly longer
    renewing.whole(same_key=True)
    assert renewing.on_card() == (1, 1) and renewing.in_use().key_id == old.key_id
    assert renewing.in_use().facts.der == renewing.issued
    renewing.signs()


def test_without_room_for_the_certificate_the_new_key_goes_again(renewing: Renewing) -> None:
    old = renewing.in_use()

    def told(step: Step) -> None:
        if step is Step.RECEIVED:
            memory = renewing.shield.card.memory
            memory.capacity = memory.used - 400  # less than replacing the card's own request makes available

    with pytest.raises(TokenError) as caught:
        renewing.whole(told)
    assert caught.value.code == "RENEWAL_NOT_WRITTEN", "OpenSC does not say that it is full"
    assert renewing.on_card() == (1, 1) and renewing.in_use().facts.der == old.facts.der
    renewing.signs()


def test_refused_or_not_answered_nothing_is_lost_and_the_person_is_asked_again(renewing: Renewing) -> None:
    old = renewing.in_use()
    renewing.shield.answer("refuse")
    with pytest.raises(ConfirmationRejected):
        renewing.whole()
    renewing.shield.answer("timeout")
    with pytest.raises(ConfirmationTimedOut):
        renewing.whole()
    assert renewing.in_use().facts.der == old.facts.der
    renewing.shield.answer("ok")
    renewing.whole()
    assert renewing.on_card() == (1, 1)
    renewing.signs()


def test_given_up_only_what_was_made_goes(renewing: Renewing, tmp_path: Path) -> None:
    with renewing.token.open(Scripted(*[renewing.shield.pin] * 4)) as session:
        renewal.request(session)
        assert renewing.on_card() == (2, 1)
        assert renewal.abandon(session)
    assert renewing.on_card() == (1, 1)
    renewing.signs()
