"""Tokens under the contract, their abilities, and the abilities that a test requires.

To add a kind: write a maker in ``tokens/`` that prepares a token with the keys of :func:`keys_of`, and a :class:`Kind`
in ``rows.KINDS``. Declare there what the token cannot do, each with a reason: a test that requires it is not generated
for that kind, so nothing is ever skipped, and ``test_declared`` fails if the token can do it after all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.soft import KEYS, SETTINGS, Soft
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import KeyRecord, TokenFlag, TokenInfo, User
from ushield_hw.backend.module import Module
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.family import Driver

F = TypeVar("F", bound=Callable[..., object])


class Can(Enum):
    """Abilities that not every token has. The value is the name in the table."""

    EC = "ECDSA with P-256"
    P384 = "ECDSA with P-384"
    RSA = "RSA, PKCS#1 v1.5"
    PSS = "RSA-PSS"
    HASH = "hashes the message itself (SHA256_RSA_PKCS)"
    CUT_DIGEST = "signs a digest that is longer than its EC key"
    GENERATE = "makes key pairs"
    WRITE_CERTIFICATE = "stores certificates"
    PLAIN_PROGRAM = "opens for a program that hands over no settings"
    HIDE_KEYS = "shows private keys only while logged in"
    SHOWS_OTHERS = "shows at once what another program has written"
    SHARED = "keeps its login when another program has logged in and gone"
    CONTEXT_LOGIN = "wants the PIN for each signature (CKA_ALWAYS_AUTHENTICATE)"
    PIN_LENGTHS = "says how short a PIN may be"
    WRONG_PIN = "may be sent a wrong PIN"
    COUNT_LOW = "shows a wrong PIN in its flags (CKF_USER_PIN_COUNT_LOW)"
    LOCK = "locks after wrong PINs, and says so before"
    SET_PIN = "changes the PIN (C_SetPIN)"
    CHECK_OLD_PIN = "checks the old PIN when the PIN is changed without a login"
    INIT_PIN = "lets the SO set a new PIN (C_InitPIN)"
    CHECK_SO = "checks the SO PIN when the SO logs in"
    INIT_TOKEN = "is set up by C_InitToken"
    PIN_UNSET = "says that a new token has no user PIN yet"


@dataclass
class Subject:
    """A token under the contract.

    Attributes:
        module: the module under test.
        elsewhere: the same token as another process sees it.
        serial: its serial number.
        pin: its user PIN. Not shown in failures: it may be a real one.
        so_pin: its SO PIN.
        keys: its private keys, by label.
        label: its label, where the serial number is not unique.
    """

    module: Module
    elsewhere: Module
    serial: str
    pin: str = field(repr=False)
    so_pin: str = field(repr=False)
    keys: Mapping[str, KeyKind]
    label: str | None = None

    def info(self, module: Module | None = None) -> TokenInfo:
        """Find the token."""
        tokens = (slot.token for slot in (module or self.module).slots() if slot.token)
        return next(one for one in tokens if one.serial == self.serial and self.label in {None, one.label})

    @property
    def slot(self) -> int:
        """Its slot id in the module under test."""
        return self.info().slot_id

    def spare_slot(self, module: Module) -> int:
        """Return a slot for initialising a token: an uninitialised one if there is any, else the token's own."""
        tokens = (slot.token for slot in module.slots() if slot.token)
        empty = (token.slot_id for token in tokens if not token.has(TokenFlag.TOKEN_INITIALIZED))
        return next(empty, None) or self.info(module).slot_id

    def login(self, pin: str | None = None) -> int:
        """Log in as the user."""
        return self.module.login(self.slot, User.USER, pin or self.pin)

    def key(self, kind: KeyKind, *, each: bool = False) -> KeyRecord:
        """Return a private key of a kind, with or without CKA_ALWAYS_AUTHENTICATE (``each``); requires a login."""
        found = (key for key in self.module.keys(self.slot) if key.private and key.can_sign)
        return next(key for key in found if (key.kind, key.always_authenticate) == (kind, each))

    def named(self, label: str) -> KeyRecord:
        """Return the private key with a label; requires a login."""
        return next(key for key in self.module.keys(self.slot) if key.private and key.label == label)

    @property
    def usual(self) -> KeyKind:
        """The kind of key for tests that work with any kind."""
        return next(kind for kind in (KeyKind.EC_P256, KeyKind.RSA, KeyKind.EC_P384) if kind in self.keys.values())


@dataclass(frozen=True)
class Place:
    """Where a test's token is created. Each part is created when first used."""

    request: pytest.FixtureRequest

    @property
    def soft(self) -> Soft:
        """A SoftHSM2 token of this test's own."""
        made: Soft = self.request.getfixturevalue("soft")
        return made

    @property
    def folder(self) -> Path:
        """The test's folder."""
        made: Path = self.request.getfixturevalue("tmp_path")
        return made

    @property
    def kept(self) -> Path:
        """A folder per process for templates that are slow to create and copied for each test."""
        factory: pytest.TempPathFactory = self.request.getfixturevalue("tmp_path_factory")
        return factory.getbasetemp()

    @property
    def monkeypatch(self) -> pytest.MonkeyPatch:
        """Patches that are undone after the test."""
        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        return patch


Maker = Callable[[Place, Isolation], AbstractContextManager[Subject]]
NOT_ABSENT: Final[Callable[[], str | None]] = lambda: None  # noqa: E731


@dataclass(frozen=True)
class Kind:
    """One kind of token.

    Attributes:
        name: used in test ids and the table.
        title: description with the version that the table holds for.
        make: context manager that prepares one and removes it with all its processes.
        cannot: the abilities it lacks, with reasons.
        ways: the isolation modes of its module.
        one_way: why only one mode is tested.
        absent: returns why it is not available on this machine.
    """

    name: str
    title: str
    make: Maker
    cannot: Mapping[Can, str]
    ways: tuple[Isolation, ...] = tuple(Isolation)
    one_way: str | None = None
    absent: Callable[[], str | None] = NOT_ABSENT

    @property
    def can(self) -> frozenset[Can]:
        """Its abilities."""
        return frozenset(Can) - self.cannot.keys()


@dataclass(frozen=True)
class Row:
    """One kind of token with one isolation mode."""

    kind: Kind
    isolation: Isolation

    @property
    def name(self) -> str:
        """The name in test ids."""
        return f"{self.kind.name}-{self.isolation.value}"

    def make(self, place: Place) -> AbstractContextManager[Subject]:
        """Prepare a token."""
        return self.kind.make(place, self.isolation)


def needs(*abilities: Can) -> Callable[[F], F]:
    """Generate a test only for rows with these abilities."""

    def mark(test: F) -> F:
        test.__dict__["needs"] = frozenset(abilities)
        return test

    return mark


def keys_of(cannot: Mapping[Can, str]) -> dict[str, KeyKind]:
    """Return those of :data:`tests.soft.KEYS` that a token can hold."""
    kinds = {KeyKind.EC_P256: Can.EC, KeyKind.EC_P384: Can.P384, KeyKind.RSA: Can.RSA}
    held = {label: kind for label, kind in KEYS.items() if kinds[kind] not in cannot}
    return {label: kind for label, kind in held.items() if label != "each" or Can.CONTEXT_LOGIN not in cannot}


def driver(driver_id: str) -> Driver:
    """Return a shipped descriptor."""
    return Catalogue(SETTINGS.drivers).get(driver_id)
