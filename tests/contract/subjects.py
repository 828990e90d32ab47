"""The kinds of token under the contract, and what each can do.

To add one: write a maker that prepares a token with the keys of ``soft.KEYS`` as far as it can hold them, and a row
with what it can do. A test that needs more than a row can do is not made for that row, so nothing is ever skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from tests.soft import SOFTHSM, Soft, key
from ushield_hw.cryptoki.model import KeyRecord, TokenFlag, TokenInfo, User
from ushield_hw.cryptoki.module import Isolation, Module

F = TypeVar("F", bound=Callable[..., object])


class Can(Enum):
    """What not every token can do."""

    RSA = auto()
    P384 = auto()
    GENERATE = auto()
    WRITE_CERTIFICATE = auto()
    CONTEXT_LOGIN = auto()  # CKA_ALWAYS_AUTHENTICATE
    SET_PIN = auto()
    INIT_PIN = auto()  # C_InitPIN by the SO
    INIT_TOKEN = auto()
    COUNT_LOW = auto()  # a wrong PIN shows as USER_PIN_COUNT_LOW


@dataclass
class Subject:
    """A token under the contract.

    Attributes:
        module: the way to it that is tested.
        elsewhere: the same token as another process sees it.
        serial: its serial number.
        pin: its user PIN.
        so_pin: its SO PIN.
    """

    module: Module
    elsewhere: Module
    serial: str
    pin: str
    so_pin: str

    def info(self, module: Module | None = None) -> TokenInfo:
        """Find the token."""
        slots = (module or self.module).slots()
        return next(slot.token for slot in slots if slot.token and slot.token.serial == self.serial)

    @property
    def slot(self) -> int:
        """Its slot, as the way under test numbers it."""
        return self.info().slot_id

    def empty_slot(self, module: Module) -> int:
        """Return a slot whose token was never set up."""
        tokens = (slot.token for slot in module.slots() if slot.token)
        return next(token.slot_id for token in tokens if not token.has(TokenFlag.TOKEN_INITIALIZED))

    def login(self, pin: str | None = None) -> int:
        """Log in as the user."""
        return self.module.login(self.slot, User.USER, pin or self.pin)

    def key(self, label: str) -> KeyRecord:
        """Return a private key; needs a login."""
        return key(self.module, self.slot, label)


@dataclass(frozen=True)
class Row:
    """One kind of token, reached in one way."""

    name: str
    isolation: Isolation
    make: Callable[[Soft, Isolation], Subject]
    can: frozenset[Can]


def softhsm(soft: Soft, isolation: Isolation) -> Subject:
    """Return a SoftHSM2 token."""
    return Subject(soft.module(isolation, SOFTHSM), soft.module(), soft.serial, soft.pin, soft.so_pin)


ROWS: Final = tuple(Row(f"softhsm-{way.value}", way, softhsm, frozenset(Can)) for way in Isolation)


def needs(*abilities: Can) -> Callable[[F], F]:
    """Make a test for those rows only that can do this."""

    def mark(test: F) -> F:
        test.__dict__["needs"] = frozenset(abilities)
        return test

    return mark
