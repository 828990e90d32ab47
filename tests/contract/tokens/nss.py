"""NSS softoken: the key database of Firefox and many servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from tests.contract.subjects import Can, Kind, Place, Subject, driver, keys_of
from tests.soft import generate_keys
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions, User
from ushield_hw.backend.module import Module

DRIVER: Final = driver("nss-softokn")
CANNOT: Final = {
    Can.PLAIN_PROGRAM: "C_Initialize must be handed a string that names the folder of the database.",
    Can.CONTEXT_LOGIN: "Notes CKA_ALWAYS_AUTHENTICATE and signs without; to log in for one signature is "
    "CKR_USER_ALREADY_LOGGED_IN.",
    Can.PIN_LENGTHS: "Says 0: a database may have an empty password.",
    Can.COUNT_LOW: "Its flags never change, however many passwords were wrong.",
    Can.LOCK: "Never locks.",
    Can.SET_PIN: "C_SetPIN answers CKR_USER_NOT_LOGGED_IN unless the user is logged in.",
    Can.CHECK_OLD_PIN: "C_SetPIN answers CKR_USER_NOT_LOGGED_IN unless the user is logged in.",
    Can.INIT_PIN: "There is no SO: one can log in only while no password is set, with an empty PIN.",
    Can.CHECK_SO: "There is no SO: one can log in only while no password is set, with an empty PIN.",
    Can.INIT_TOKEN: "C_InitToken takes no SO PIN but the empty one, and no label.",
    Can.PIN_UNSET: "No new token can be made of it: see C_InitToken.",
}
_LABEL: Final = "NSS Certificate DB"
_SERIAL: Final = "0000000000000000"  # its other slot, for computation only, has the same
_PIN: Final = "2468013"


def _module(isolation: Isolation, folder: Path) -> Module:
    settings = f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod=''"
    return Module(DRIVER.module_files()[0].resolve(), isolation, ModuleOptions(init_reserved=settings), 60)


def _subject(module: Module, elsewhere: Module) -> Subject:
    return Subject(module, elsewhere, _SERIAL, _PIN, "", keys_of(CANNOT), _LABEL)


@cache
def _provisioned(folder: Path) -> Path:
    folder.mkdir()
    module = _module(Isolation.PROCESS, folder)
    subject = _subject(module, module)
    so = module.login(subject.slot, User.SO, "")
    module.init_pin(so, _PIN)
    module.logout(so)
    generate_keys(module, subject.login(), subject.keys)
    module.close()
    return folder


@contextmanager
def make(place: Place, isolation: Isolation) -> Iterator[Subject]:
    """Create a database for one test."""
    folder = place.folder / "nss"
    shutil.copytree(_provisioned(place.kept / "nss"), folder)
    with ExitStack() as closing:
        module, elsewhere = _module(isolation, folder), _module(Isolation.PROCESS, folder)
        for one in (elsewhere, module):
            closing.callback(one.close)
        yield _subject(module, elsewhere)


def absent() -> str | None:
    """Return why it is not available."""
    return None if DRIVER.module_files() else "libsoftokn3.so is not installed (package libnss3)"


KIND: Final = Kind("nss", "NSS softoken 3.87", make, CANNOT, absent=absent)
