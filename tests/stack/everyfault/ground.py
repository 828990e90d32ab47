"""Set-up for fault injection: a soft token with one key behind the faulty module, in this process or in a worker."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from cryptography import x509

from tests.soft import SETTINGS, SOFTHSM, Soft
from tests.unit.cms.pki import Authority, authority, der
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.module import Module
from ushield_hw.backend.pkcs11.ckr import CkrError
from ushield_hw.backend.pkcs11.function_list import Functions
from ushield_hw.certificates.certificate import install, request
from ushield_hw.config import data_dir
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.testing.faulty import FaultyModule, faulty_module
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.softhsm import CONF_VARIABLE, Provisioned, provision
from ushield_hw.token.link import Link
from ushield_hw.token.session import open_session

SLOW_S: Final = 30.0
_OTHER_PIN: Final = "654321"
_ONE_TOKEN: Final = '[[token]]\nlabel = "one"\npin_digits = 6\nso_pin_digits = 8\n'


@dataclass
class Ground:
    """A token, the faulty module that wraps SoftHSM2, and the library's module object for it.

    Attributes:
        soft: the token, with one key and its certificate.
        pins: its current PIN, and another one.
        certificate: the key's certificate (DER).
        bank: the issuing CA.
        faulty: the faulty module.
        module: the library's object for it.
        original: the folder that the token was copied from.
    """

    soft: Soft
    pins: tuple[str, str]
    certificate: bytes
    bank: Authority
    faulty: FaultyModule
    module: Module
    original: Path

    @cached_property
    def link(self) -> Link:
        """The token as a session uses it."""
        return self.soft.link(self.module)

    @property
    def in_process(self) -> bool:
        """Whether the module runs in this process."""
        return self.module.isolation is Isolation.IN_PROCESS

    def let_go(self) -> None:
        """Close the module and finalise it even if an injected fault prevented that."""
        self.module.close()
        if self.in_process:
            with suppress(CkrError):
                Functions(str(self.faulty.path)).call("C_Finalize", None)

    def person(self, *more: str, confirms: int = 0) -> Scripted:
        """Return a user who enters the PIN and any further PINs, and confirms the given number of times."""
        return Scripted(self.pins[0], *more, confirms=[True] * confirms)

    def count_failures(self, failures: int) -> None:
        """Set the number of failed PIN attempts that this host has recorded."""
        self._counter.write_text(json.dumps({"version": 1, "failures": failures}))

    def failures(self) -> int:
        """Return the number of failed PIN attempts that this host has recorded."""
        failures: int = json.loads(self._counter.read_bytes())["failures"]
        return failures

    def restore(self) -> None:
        """Restore the token's initial state."""
        self.let_go()
        shutil.rmtree(self.soft.folder / "tokens")
        shutil.copytree(self.original / "tokens", self.soft.folder / "tokens")
        self.pins = self.soft.pin, _OTHER_PIN

    @cached_property
    def _counter(self) -> Path:
        (file,) = (self.soft.state / "pin").glob("*.json")
        return file


@dataclass(frozen=True)
class Original:
    """A token that is copied for each test; see :class:`Ground`."""

    made: Provisioned
    pin: str
    certificate: bytes
    bank: Authority

    def copy(self, folder: Path, isolation: Isolation) -> Ground:
        """Return a copy behind a faulty module without faults.

        In this process the module gets SoftHSM2's options, in a worker those of a vendor module.
        """
        source, (token,) = self.made.conf.parent, self.made.tokens
        shutil.copytree(source, folder)
        conf = folder / "softhsm2.conf"
        conf.write_text(conf.read_text().replace(str(source), str(folder)))
        soft = Soft(
            folder, token.label, token.serial, self.pin, token.so_pin_file.read_text().strip(), folder / "state"
        )
        faulty = faulty_module(folder / "faulty", SOFTHSM)
        options = ModuleOptions(relist=isolation is Isolation.IN_PROCESS)
        module = Module(faulty.path, isolation, options, SLOW_S, {CONF_VARIABLE: str(conf)})
        return Ground(soft, (self.pin, _OTHER_PIN), self.certificate, self.bank, faulty, module, source)


@cache
def original(folder: Path) -> Original:
    """Create a token with one key and a certificate for it."""
    config, tokens = folder / "config", folder / "tokens"
    config.mkdir()
    shutil.copy(data_dir("softhsm-config") / "softhsm2.conf", config)
    (config / "tokens.toml").write_text(_ONE_TOKEN)
    made, bank = provision(tokens, SETTINGS, config), authority()
    token, pin = made.tokens[0], made.tokens[0].pin_file.read_text().strip()
    soft = Soft(tokens, token.label, token.serial, pin, "", folder / "state")
    module = Module(SOFTHSM, Isolation.PROCESS, ModuleOptions(), SLOW_S, {CONF_VARIABLE: str(made.conf)})
    try:
        with open_session(soft.link(module), Scripted(pin), "request") as session:
            public = x509.load_pem_x509_csr(request(session, KeySpec.EC_P256, "CN=张三").pem).public_key()
            issued = der(bank.issue("CN=张三", public))
            install(session, issued)
    finally:
        module.close()
    return Original(made, pin, issued, bank)
