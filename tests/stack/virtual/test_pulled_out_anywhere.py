"""The U-shield is removed at a command before its card responds; after it is inserted again, the job succeeds.

At every command of a signature, and at every fourth command of a PIN change and of a certificate installation.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from tests.rotation import share
from tests.unit.order.samples import live, payment
from ushield_hw.backend.module import close_modules
from ushield_hw.certificates.certificate import install
from ushield_hw.errors import TokenError, UShieldError
from ushield_hw.order import Order
from ushield_hw.signing.order import sign
from ushield_hw.testing.card.ushield import UShieldCard
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.token.choice import find_token
from ushield_hw.token.pin_operations import change_pin
from ushield_hw.token.token import Token
from ushield_hw.verifier import TrustStore, verify

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

OTHER_PIN = "135790"


@dataclass
class Hand:
    """Removes the token when its card gets the n-th command, counted from 1; 0: never. Records the commands."""

    shield: VirtualShield
    at: int = 0
    seen: int = 0
    heard: list[int] = field(default_factory=list)
    _real: Callable[[bytes], bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._real = self.shield.card.transmit
        self.shield.card.transmit = self._transmit  # type: ignore[method-assign]

    def _transmit(self, command: bytes) -> bytes:
        self.seen += 1
        self.heard.append(command[1])
        if self.seen == self.at:
            self.shield.eject()
            return b""  # the response is lost
        return self._real(command)


@dataclass
class Job:
    """Operations on a token, with checks of their results."""

    shield: VirtualShield
    order: Order = field(default_factory=lambda: payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4())))

    @property
    def card(self) -> UShieldCard:
        return self.shield.card

    def sign(self) -> None:
        with self._token().open(Scripted(self.shield.pin, self.shield.pin)) as session:
            signed = sign(self.order, session)
        verify(signed, trust=TrustStore([self.shield.ca_pem]), expected=self.order)
        assert self.shield.signatures <= 1

    def change(self) -> None:
        change_pin(self._token().link, Scripted(self.shield.pin, OTHER_PIN))
        assert self.card.memory.secrets["user"].length == len(OTHER_PIN)
        change_pin(self._token().link, Scripted(OTHER_PIN, self.shield.pin))

    def install(self) -> None:
        with self._token().open(Scripted(self.shield.pin)) as session:
            (certificate,) = (record.der for record in session.certificates())
            assert install(session, certificate).has_key

    def _token(self) -> Token:
        return find_token(self.shield.uri)


@pytest.fixture
def shield(virtual_shield: VirtualShield) -> Iterator[VirtualShield]:
    virtual_shield.answer("ok")
    yield virtual_shield


def commands(shield: VirtualShield, job: Callable[[], None]) -> int:
    """Return how many commands the card gets during a job, including the start of the module."""
    hand = Hand(shield)
    close_modules()
    job()
    shield.card.memory.counters.clear()
    return hand.seen


@pytest.mark.parametrize(("which", "shares"), [("sign", 3), ("change", 12), ("install", 12)])
def test_pulled_out_at_any_command(shield: VirtualShield, which: str, shares: int) -> None:
    total = commands(shield, getattr(Job(shield), which))
    assert total > 10
    wrong = []
    hand = Hand(shield)
    for number in share(range(1, total + 1), shares):
        job = Job(shield)
        shield.card.memory.counters.clear()
        shield.card.memory.secrets["user"].set(shield.pin.encode())
        close_modules()
        hand.at, hand.seen = number, 0
        try:
            getattr(job, which)()
        except TokenError:
            pass
        except UShieldError as error:
            wrong.append(f"{number} of {total}: {error.code}")
        hand.at = 0
        shield.insert()
        if shield.card.memory.secrets["user"].length:
            shield.card.memory.secrets["user"].set(shield.pin.encode())  # the PIN may have been changed
        try:  # in the same process, without a new worker
            again(getattr(job, which))
        except UShieldError as error:
            wrong.append(f"{number} of {total}, put in again: {error.code}")
    assert wrong == []


def again(job: Callable[[], None]) -> None:
    """Run the job, and once more if OpenSC had not detected the removal: its first C_SetPIN then fails."""
    try:
        job()
    except TokenError as error:
        if error.code != "PIN_CHANGE_UNKNOWN":
            raise
        job()
