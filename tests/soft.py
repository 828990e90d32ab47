"""A soft token for one test. The scripted user is ``ushield_hw.testing.scripted``.

The tokens are provisioned once per process and copied for each test. SoftHSM2 reads SOFTHSM2_CONF in C_Initialize and
is loaded once per process: so every module that a test got from :class:`Soft` is closed after the test, as are those
of the library's registry, and the next test's C_Initialize reads the next test's file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import KeyRecord, ModuleOptions, TokenInfo, User
from ushield_hw.backend.module import Module, close_modules
from ushield_hw.config import Settings, data_dir
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.family import Driver
from ushield_hw.testing.softhsm import CONF_VARIABLE, Provisioned, provision
from ushield_hw.token.link import Link

T = TypeVar("T")

SETTINGS: Final = Settings(drivers=(data_dir("drivers"),))
DRIVER: Final = Catalogue(SETTINGS.drivers).get("softhsm2")
SOFTHSM: Final = DRIVER.module_files()[0].resolve()
OPTIONS: Final = ModuleOptions(relist=True)
WRONG_PIN: Final = "0000000"  # one digit longer than any PIN of provision()

# The keys on every copy, by their CKA_LABEL; "each" has CKA_ALWAYS_AUTHENTICATE.
KEYS: Final = {"pay": KeyKind.EC_P256, "p384": KeyKind.EC_P384, "rsa": KeyKind.RSA, "each": KeyKind.EC_P256}


@dataclass
class Soft:
    """A folder with two provisioned tokens. Serial, label and PINs are those of the first.

    Attributes:
        folder: where ``softhsm2.conf`` and the tokens are.
        label: the token's label.
        serial: its serial number.
        pin: its user PIN.
        so_pin: its SO PIN.
        state: a folder for the library's persistent state.
    """

    folder: Path
    label: str
    serial: str
    pin: str
    so_pin: str
    state: Path
    _closing: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def conf(self) -> Path:
        """The value of SOFTHSM2_CONF."""
        return self.folder / "softhsm2.conf"

    def module(self, isolation: Isolation = Isolation.PROCESS, path: Path = SOFTHSM, deadline_s: float = 30) -> Module:
        """Return a module, not loaded yet, that is closed after the test."""
        module = Module(path, isolation, OPTIONS, deadline_s, {CONF_VARIABLE: str(self.conf)})
        self._closing.callback(module.close)
        return module

    def info(self, module: Module) -> TokenInfo:
        """Find the token: SoftHSM2 assigns the slot numbers."""
        return next(slot.token for slot in module.slots() if slot.token and slot.token.serial == self.serial)

    def link(self, module: Module, driver: Driver = DRIVER) -> Link:
        """Return the token as a session uses it."""
        settings = replace(SETTINGS, state_dir=self.state)
        info = self.info(module)
        return Link(module, info.slot_id, self.serial, driver, settings, info.identity)

    def close(self) -> None:
        """Close every module."""
        self._closing.close()


def pin_driver(driver: Driver = DRIVER, **pin: Any) -> Driver:
    """Return SoftHSM2's driver with another ``[pin]``."""
    return replace(driver, pin=replace(driver.pin, **pin))


def key(module: Module, slot_id: int, label: str) -> KeyRecord:
    """Return the private key with a label; requires a login."""
    return next(key for key in module.keys(slot_id) if key.private and key.label == label)


def generate_keys(module: Module, login: int, wanted: Mapping[str, KeyKind] = KEYS) -> None:
    """Generate a token's keys; their ids count from 1."""
    for number, (label, kind) in enumerate(wanted.items(), start=1):
        module.generate(login, kind, 2048, bytes([number]), label, always_authenticate=label == "each")


@cache  # two conftests import the fixture: it would run twice
def _provision(folder: Path) -> Provisioned:
    made = provision(folder, SETTINGS)
    module = Module(SOFTHSM, Isolation.PROCESS, OPTIONS, 60, {CONF_VARIABLE: str(made.conf)})
    slot_id = next(slot.slot_id for slot in module.slots() if slot.token and slot.token.serial == made.tokens[0].serial)
    login = module.login(slot_id, User.USER, made.tokens[0].pin_file.read_text().strip())
    generate_keys(module, login)
    module.close()
    return made


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Provisioned:
    """The template tokens, with :data:`KEYS` on the first."""
    return _provision(tmp_path_factory.getbasetemp() / "provisioned")


@pytest.fixture
def soft(provisioned: Provisioned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Soft]:
    """This test's own copy of the tokens; SOFTHSM2_CONF names it."""
    source, folder = provisioned.conf.parent, tmp_path / "soft"
    shutil.copytree(source, folder)
    conf = folder / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(source), str(folder)))
    token = provisioned.tokens[0]
    pin, so_pin = (file.read_text().strip() for file in (token.pin_file, token.so_pin_file))
    monkeypatch.setenv(CONF_VARIABLE, str(conf))
    close_modules()
    copy = Soft(folder, token.label, token.serial, pin, so_pin, tmp_path / "state")
    yield copy
    copy.close()
    close_modules()
