"""The virtual U-shield without buttons, driven by OpenSC: a SmartCard-HSM with a PIN lock.

The model with a display signs only what it can display, so a contract about digests does not apply to it; it is tested
in ``tests/stack/virtual/test_shield.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Final

from tests.contract.subjects import Can, Kind, Place, Subject, driver
from tests.soft import KEYS, generate_keys
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import User
from ushield_hw.backend.module import Module
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.shield import Model, VirtualShield

_CANNOT: Final[Mapping[Can, str]] = {
    Can.SHOWS_OTHERS: "OpenSC reads a card's contents once, when it first sees the card.",
    Can.SHARED: "Selecting the applet ends its logins, and OpenSC selects it for every program that opens the card.",
    Can.CHECK_SO: "OpenSC keeps the SO PIN and hands it over with C_InitPIN; a wrong one is told only there.",
    Can.INIT_TOKEN: "OpenSC's C_InitToken knows no SmartCard-HSM: CKR_GENERAL_ERROR.",
    Can.PIN_UNSET: "No new token can be made of it: see C_InitToken.",
    Can.PLAIN_PROGRAM: "The other program would have to be told where the test's PC/SC daemon is.",
}
_ONE_WAY: Final = "PC/SC's client library reads the place of the daemon once in a process; each test has a daemon."


def _module(shield: VirtualShield) -> Module:
    spec = driver("opensc").module
    path = driver("opensc").module_files()[0].resolve()
    return Module(path, Isolation.PROCESS, spec.options, spec.deadline_s, shield.host_env)


@cache
def _provisioned() -> tuple[Memory, str, str]:
    """Return the template: a card with the keys, created through OpenSC, and its PINs."""
    with VirtualShield(model=Model.NONE, certified=False) as shield:
        module = _module(shield)
        slot = next(slot.slot_id for slot in module.slots() if slot.token)
        generate_keys(module, module.login(slot, User.USER, shield.pin))
        module.close()
        memory = shield.card.memory
        memory.path = None
        return memory, shield.pin, shield.so_pin


@contextmanager
def _make(_place: Place, _isolation: Isolation) -> Iterator[Subject]:
    memory, pin, so_pin = _provisioned()
    with PcscHost() as desk, VirtualShield(model=Model.NONE, certified=False, host=desk) as shield:
        shield.eject()
        shield.card.memory = deepcopy(memory)
        shield.insert()
        modules = _module(shield), _module(shield)
        try:
            yield Subject(*modules, memory.serial, pin, so_pin, KEYS)
        finally:
            for module in modules:
                module.close()


def _absent() -> str | None:
    return None if driver("opensc").module_files() else "OpenSC is not installed"


KIND: Final = Kind(
    "opensc-shield", "Virtual U-shield, OpenSC 0.23", _make, _CANNOT, (Isolation.PROCESS,), _ONE_WAY, _absent
)
