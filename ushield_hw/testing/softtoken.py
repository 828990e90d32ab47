"""A soft token with a key and a certificate in its own folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.module import Module
from ushield_hw.certificates.certificate import install, request
from ushield_hw.config import Settings, data_dir
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.softhsm import CONF_VARIABLE, provision
from ushield_hw.testing.softhsm import SoftToken as Made
from ushield_hw.token.link import Link
from ushield_hw.token.session import open_session

_SUBJECT: Final = "CN=张三,O=Demo Bank"


@dataclass(frozen=True)
class SoftToken:
    """A SoftHSM2 token with an EC P-256 key and a certificate for it.

    Attributes:
        folder: contains all its files.
        uri: the URI that selects it.
        serial: its serial number.
        label: its label.
        pin: its user PIN.
        so_pin: its SO PIN.
    """

    folder: Path
    uri: str
    serial: str
    label: str
    pin: str
    so_pin: str

    @property
    def softhsm2_conf(self) -> Path:
        """The configuration file for SOFTHSM2_CONF."""
        return self.folder / "softhsm2.conf"

    @property
    def ca_pem(self) -> Path:
        """The certificate of the CA that issued its certificate."""
        return self.folder / "ca.pem"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables for a child process: the token, and a separate state folder."""
        return {CONF_VARIABLE: str(self.softhsm2_conf), "XDG_STATE_HOME": str(self.folder / "state")}

    def copy(self, folder: Path) -> SoftToken:
        """Return a copy in another folder, which must not exist: same keys, same serial number."""
        shutil.copytree(self.folder, folder)
        copy = replace(self, folder=folder)
        conf = copy.softhsm2_conf
        conf.write_text(conf.read_text(encoding="utf-8").replace(str(self.folder), str(folder)), encoding="utf-8")
        return copy


def soft_token(folder: Path) -> SoftToken:
    """Create a soft token. Takes about a second; use :meth:`SoftToken.copy` for further ones.

    Args:
        folder: an absolute path; created if missing.

    Raises:
        DriverNotFound: SoftHSM2 is not installed.
    """
    settings = Settings(drivers=(data_dir("drivers"),), state_dir=folder / "state")
    made = provision(folder, settings).tokens[0]
    pin, so_pin = (file.read_text(encoding="utf-8").strip() for file in (made.pin_file, made.so_pin_file))
    token = SoftToken(folder, made.uri, made.serial, made.label, pin, so_pin)
    token.ca_pem.write_bytes(_certify(made, token, settings))
    shutil.rmtree(folder / "state", ignore_errors=True)
    return token


def _certify(made: Made, token: SoftToken, settings: Settings) -> bytes:
    driver = Catalogue.of(settings).get("softhsm2")
    # A separate worker process: this process may use SoftHSM2 with another configuration.
    module = Module(driver.module_files()[0], Isolation.PROCESS, ModuleOptions(), 60.0, token.env)
    try:
        slot = next(slot.token for slot in module.slots() if slot.token and slot.token.serial == made.serial)
        with open_session(
            Link(module, slot.slot_id, made.serial, driver, settings), Scripted(token.pin), ""
        ) as session:
            authority, asked = Authority(), request(session, KeySpec.EC_P256, _SUBJECT)
            install(session, authority.certify(asked.pem))
    finally:
        module.close()
    return authority.pem
