"""A PIV card in a real reader, driven by OpenSC and, as a YubiKey, by ykcs11.

The keys are generated once per process: the tests only sign with them, and generating RSA keys is slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.contract.subjects import Can, Kind, Place, Subject, driver
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import TokenInfo
from ushield_hw.backend.module import Module
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.family import Driver
from ushield_hw.testing.authority import Authority, person
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.panel import Panel
from ushield_hw.testing.card.piv import READER, PivCard, Slot, YubiKey, blank, hold
from ushield_hw.testing.card.piv.contents import MANAGEMENT, padded
from ushield_hw.testing.readers import Insertion, PcscHost

PIN: Final = "123456"
PUK: Final = "87654321"
SO_PIN: Final = MANAGEMENT.hex()  # in the format that ykcs11 expects
_SERIAL: Final = 12345678
_DEADLINE_S: Final = 10.0
_POLL_S: Final = 0.01

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def private_keys() -> dict[Slot, PrivateKey]:
    """Return the keys of every card."""
    return {
        Slot.AUTHENTICATION: ec.generate_private_key(ec.SECP256R1()),
        Slot.SIGNATURE: ec.generate_private_key(ec.SECP256R1()),
        Slot.KEY_MANAGEMENT: ec.generate_private_key(ec.SECP384R1()),
        Slot.CARD_AUTHENTICATION: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }


@cache
def authority() -> Authority:
    """Return the CA of every certificate."""
    return Authority()


@cache
def _certified() -> Memory:
    """Return the template memory. OpenSC does not sign with 9D unless a certificate allows it."""
    memory = blank(_SERIAL, PIN, PUK)
    for slot, key in private_keys().items():
        certificate = authority().issue(person(f"张三 {slot:02X}"), key.public_key())
        hold(memory, slot, key, certificate.public_bytes(Encoding.DER))
    return memory


def certified(pin: str = PIN) -> Memory:
    """Return the memory of a new card with a key and a certificate in each slot."""
    memory = deepcopy(_certified())
    memory.secrets["pin"].set(padded(pin))
    return memory


@dataclass(frozen=True)
class Way:
    """A module for a kind of PIV card.

    Attributes:
        driver_id: the descriptor used.
        card: the kind of card.
        reader: the required reader name.
        serial: the serial number that the module shows for the test card.
        labels: the module's labels of the private keys.
    """

    driver_id: str
    card: type[PivCard]
    reader: str
    serial: str
    labels: Mapping[Slot, str]

    @property
    def driver(self) -> Driver:
        """The descriptor."""
        return driver(self.driver_id)

    @property
    def path(self) -> Path:
        """The module's file."""
        return self.driver.module_files()[0].resolve()


OPENSC: Final = Way(
    "opensc",
    PivCard,
    "Virtual PIV",
    f"{_SERIAL:016x}",
    {
        Slot.AUTHENTICATION: "PIV AUTH key",
        Slot.SIGNATURE: "SIGN key",
        Slot.KEY_MANAGEMENT: "KEY MAN key",
        Slot.CARD_AUTHENTICATION: "CARD AUTH key",
    },
)
YKCS11: Final = Way(
    "yubikey-piv",
    YubiKey,
    READER,
    str(_SERIAL),
    {
        Slot.AUTHENTICATION: "Private key for PIV Authentication",
        Slot.SIGNATURE: "Private key for Digital Signature",
        Slot.KEY_MANAGEMENT: "Private key for Key Management",
        Slot.CARD_AUTHENTICATION: "Private key for Card Authentication",
    },
)
_KINDS: Final = {
    Slot.AUTHENTICATION: KeyKind.EC_P256,
    Slot.SIGNATURE: KeyKind.EC_P256,
    Slot.KEY_MANAGEMENT: KeyKind.EC_P384,
    Slot.CARD_AUTHENTICATION: KeyKind.RSA,
}


@dataclass
class Plugged:
    """A card in a reader of a separate pcscd.

    Attributes:
        way: the module that drives it.
        desk: the pcscd and its readers.
        card: the card that is or was last in the reader.
    """

    way: Way
    desk: PcscHost
    card: PivCard
    _insertion: Insertion
    _closing: ExitStack = field(default_factory=ExitStack, repr=False)

    def module(self, **environment: str) -> Module:
        """Return the module for a new process, not started yet."""
        spec = self.way.driver.module
        found = Module(self.way.path, Isolation.PROCESS, spec.options, spec.deadline_s, self.desk.env | environment)
        self._closing.callback(found.close)
        return found

    def info(self, module: Module) -> TokenInfo:
        """Find the token."""
        return next(slot.token for slot in module.slots() if slot.token and slot.token.serial == self.way.serial)

    def sent(self, ins: int) -> list[int]:
        """Return the status words for an instruction with data since the last :meth:`forget`."""
        return [one.sw for one in self.card.history if one.ins == ins and one.length]

    def forget(self) -> None:
        """Clear the card's history."""
        self.card.history.clear()

    def pull_out(self, module: Module) -> None:
        """Remove the card and wait until a module has detected it."""
        self._insertion.eject()
        until(lambda: not any(slot.token for slot in module.slots()))

    def put_back(self, module: Module) -> None:
        """Insert it again, rebuilt from its stored memory, and wait until a module has detected it."""
        self.card = type(self.card)(self.card.memory, self.card.panel)
        self._insertion = self.desk.insert(self.card)
        until(lambda: any(slot.token for slot in module.slots()))

    def close(self) -> None:
        """Close every module."""
        self._closing.close()


def until(happened: Callable[[], bool], within_s: float = _DEADLINE_S) -> None:
    """Poll until a condition holds; fail after a deadline."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(_POLL_S)


@contextmanager
def plugged(way: Way, memory: Memory | None = None, panel: Panel | None = None) -> Iterator[Plugged]:
    """Insert a card into a reader. Its modules, the reader and pcscd are stopped when the context ends."""
    card = way.card(memory or certified(), panel)
    with PcscHost([way.reader]) as desk:
        made = Plugged(way, desk, card, desk.insert(card))
        try:
            yield made
        finally:
            made.close()


_NOT_BOTH: Final = "PC/SC's client library reads the place of the daemon once in a process; each test has a daemon."
_OPENSC_CANNOT: Final = {
    Can.GENERATE: "OpenSC writes nothing to PIV cards through PKCS#11: CKR_FUNCTION_NOT_SUPPORTED.",
    Can.WRITE_CERTIFICATE: "OpenSC writes nothing to PIV cards through PKCS#11: CKR_FUNCTION_NOT_SUPPORTED.",
    Can.PLAIN_PROGRAM: "The other program would have to be told where the test's PC/SC daemon is.",
    Can.HIDE_KEYS: "The key for the card's own authentication (9E) needs no PIN and is shown to everybody.",
    Can.COUNT_LOW: "OpenSC shows FINAL_TRY and LOCKED, never COUNT_LOW.",
    Can.INIT_PIN: "A PIV card has a PUK and no SO PIN.",
    Can.CHECK_SO: "A PIV card has a PUK and no SO PIN.",
    Can.SHOWS_OTHERS: "OpenSC writes nothing to PIV cards through PKCS#11: CKR_FUNCTION_NOT_SUPPORTED.",
    Can.INIT_TOKEN: "OpenSC has no C_InitToken for PIV cards.",
    Can.PIN_UNSET: "No new token can be made of it: see C_InitToken.",
}
_YKCS11_CANNOT: Final = {
    Can.CUT_DIGEST: "ykcs11 answers CKR_DEVICE_ERROR: it takes no digest longer than the key.",
    Can.SHARED: "A program that is done with ykcs11 resets the card; listing the slots then ends the others' logins.",
    Can.GENERATE: "Key pairs are made by the SO only: the PIN does not open the management key.",
    Can.WRITE_CERTIFICATE: "Certificates are written by the SO only: the PIN does not open the management key.",
    Can.PLAIN_PROGRAM: "The other program would have to be told where the test's PC/SC daemon is.",
    Can.INIT_PIN: "ykcs11 has no C_InitPIN: CKR_FUNCTION_NOT_SUPPORTED.",
    Can.SHOWS_OTHERS: "Key pairs are made by the SO only, and never beside a user's login.",
    Can.INIT_TOKEN: "C_InitToken resets the PIV application, and a new one has a PIN already.",
    Can.PIN_UNSET: "No new token can be made of it: see C_InitToken.",
}


def _maker(way: Way) -> Callable[[Place, Isolation], Iterator[Subject]]:
    keys = {label: _KINDS[slot] for slot, label in way.labels.items()}

    def make(_place: Place, _isolation: Isolation) -> Iterator[Subject]:
        with plugged(way) as made:
            yield Subject(made.module(), made.module(), way.serial, PIN, SO_PIN, keys)

    return make


def _absent(way: Way) -> Callable[[], str | None]:
    return lambda: None if way.driver.module_files() else f"the module of {way.driver_id} is not installed"


OPENSC_KIND: Final = Kind(
    "opensc-piv",
    "PIV card, OpenSC 0.23",
    contextmanager(_maker(OPENSC)),
    _OPENSC_CANNOT,
    (Isolation.PROCESS,),
    _NOT_BOTH,
    _absent(OPENSC),
)
YKCS11_KIND: Final = Kind(
    "ykcs11-piv",
    "YubiKey PIV, ykcs11 2.2",
    contextmanager(_maker(YKCS11)),
    _YKCS11_CANNOT,
    (Isolation.PROCESS,),
    _NOT_BOTH,
    _absent(YKCS11),
)
