"""Soft tokens for tests, CI and the demo, created with SoftHSM2 from ``softhsm-config/``. Not for real payments.

A provisioned folder contains ``softhsm2.conf``, the tokens, and a PIN file and an SO PIN file for each token, readable
by their owner only. Provisioning is idempotent: existing tokens are kept, missing ones created.
"""

from __future__ import annotations

import os
import secrets
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions, TokenFlag, TokenInfo, User
from ushield_hw.backend.module import Module
from ushield_hw.config import Settings, data_dir, data_file
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.errors import DriverNotFound, InputError, StorageError
from ushield_hw.schema import Table
from ushield_hw.system import trust
from ushield_hw.system.hardening import forgetting
from ushield_hw.system.storage import write_atomically
from ushield_hw.uri import TokenUri

CONF_VARIABLE: Final = "SOFTHSM2_CONF"
_LONGEST_LABEL: Final = 32


@dataclass(frozen=True, slots=True)
class SoftToken:
    """A soft token. ``pin_file`` and ``so_pin_file`` contain its PINs."""

    label: str
    serial: str
    uri: str
    pin_file: Path
    so_pin_file: Path

    def to_json(self) -> dict[str, object]:
        """Return the token as JSON."""
        return {
            "label": self.label,
            "serial": self.serial,
            "uri": self.uri,
            "pin_file": str(self.pin_file),
            "so_pin_file": str(self.so_pin_file),
        }


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A folder of soft tokens; ``conf`` is the file for SOFTHSM2_CONF."""

    conf: Path
    tokens: tuple[SoftToken, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    label: str
    pin_digits: int
    so_pin_digits: int


@forgetting
def provision(folder: Path, settings: Settings, config: Path | None = None, tokens: str = "tokens.toml") -> Provisioned:
    """Create the soft tokens of ``softhsm-config/tokens.toml`` in a folder. Idempotent.

    Args:
        folder: created if missing, for this user only.
        settings: determines the descriptors.
        config: the folder with the template and tokens.toml; default: the shipped one.
        tokens: the name of another file in place of tokens.toml.

    Returns:
        The configuration file and the tokens.

    Raises:
        DriverNotFound: SoftHSM2 is not installed.
        InputError: the tokens file is invalid.
        StorageError: the folder cannot be used.
    """
    source = config or data_dir("softhsm-config")
    wanted = _wanted(source / tokens)
    conf = _prepare(folder.absolute(), source / "softhsm2.conf")
    module_path = _module_path(settings)
    with_conf = {CONF_VARIABLE: str(conf)}
    made = [_token(one, folder.absolute(), module_path, with_conf) for one in wanted]
    return Provisioned(conf, tuple(made))


def _module_path(settings: Settings) -> Path:
    driver = Catalogue.of(settings).get("softhsm2")
    files = driver.module_files()
    if not files:
        raise DriverNotFound("SOFTHSM_NOT_INSTALLED", searched=list(driver.module.paths))
    return files[0]


def _wanted(file: Path) -> list[_Wanted]:
    def refuse(*, key: str, problem: str, **values: object) -> InputError:
        return InputError("CONFIG_INVALID", file=str(file), key=key, problem=problem, **values)

    try:
        table = Table(tomllib.loads(data_file(file).decode()), refuse)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError("CONFIG_UNREADABLE", file=str(file), reason=str(error)) from error
    rows = table.tables("token")
    table.close()
    return [_row(row) for row in rows]


def _row(row: Table) -> _Wanted:
    found = _Wanted(
        row.text("label", longest=_LONGEST_LABEL),
        row.integer("pin_digits", 6, least=4, most=32),
        row.integer("so_pin_digits", 8, least=4, most=32),
    )
    row.close()
    if len(found.label.encode()) > _LONGEST_LABEL:
        row.fail("label", "too_long", longest=_LONGEST_LABEL)
    return found


def _prepare(folder: Path, template: Path) -> Path:
    """Create the folder and its softhsm2.conf; an existing configuration is kept."""
    conf, tokens = folder / "softhsm2.conf", folder / "tokens"
    try:
        trust.make_folder(tokens)
        if not conf.exists():
            text = data_file(template).decode().replace("{token_dir}", str(tokens))
            write_atomically(conf, text.encode())
    except trust.Unsafe as error:
        raise StorageError("STATE_UNSAFE", path=str(folder), **error.details) from error
    except OSError as error:
        raise StorageError("STATE_FOLDER_UNUSABLE", path=str(folder), reason=error.strerror) from error
    return conf


def _token(wanted: _Wanted, folder: Path, path: Path, environment: Mapping[str, str]) -> SoftToken:
    # A separate worker process: this process may use SoftHSM2 with another configuration.
    module = Module(path, Isolation.PROCESS, ModuleOptions(), 60.0, environment)
    pin, so_pin = (_pin_file(folder, wanted, kind) for kind in ("pin", "so-pin"))
    try:
        info = _find(module, wanted.label)
        if info is None:
            _initialise(module, wanted, so_pin)
            info = _find(module, wanted.label)
        if info is None:
            raise StorageError("STATE_FOLDER_UNUSABLE", path=str(folder), reason="the token did not appear")
        if not info.has(TokenFlag.USER_PIN_INITIALIZED):
            _set_pin(module, info, so_pin, pin)
    finally:
        module.close()
    uri = TokenUri(info.label, info.manufacturer, info.serial, info.model, module_path=path)
    return SoftToken(wanted.label, info.serial, str(uri), pin, so_pin)


def _find(module: Module, label: str) -> TokenInfo | None:
    for slot in module.slots():
        if slot.token and slot.token.label == label and slot.token.has(TokenFlag.TOKEN_INITIALIZED):
            return slot.token
    return None


def _initialise(module: Module, wanted: _Wanted, so_pin: Path) -> None:
    free = next(slot for slot in module.slots() if slot.token and not slot.token.has(TokenFlag.TOKEN_INITIALIZED))
    module.init_token(free.slot_id, so_pin.read_text().strip(), wanted.label)
    module.close()  # slot ids change after initialization: enumerate again with a new worker


def _set_pin(module: Module, info: TokenInfo, so_pin: Path, pin: Path) -> None:
    login_id = module.login(info.slot_id, User.SO, so_pin.read_text().strip())
    module.init_pin(login_id, pin.read_text().strip())
    module.logout(login_id)


def _pin_file(folder: Path, wanted: _Wanted, kind: str) -> Path:
    """Return the file of a PIN; a missing one is created with a random PIN."""
    safe = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in wanted.label
    )
    file = folder / f"{safe}.{kind}"
    digits = wanted.pin_digits if kind == "pin" else wanted.so_pin_digits
    if not file.exists():
        pin = "".join(secrets.choice(string.digits) for _ in range(digits))
        try:
            write_atomically(file, pin.encode() + b"\n")
        except OSError as error:
            raise StorageError("STATE_FOLDER_UNUSABLE", path=str(file), reason=error.strerror) from error
    os.chmod(file, 0o600)
    return file
