"""A physical token: ``pytest -m device --token-serial SERIAL``.

Only the token with that serial number is used. Nothing is written to it and no SO PIN is sent. The PIN state is checked
before each test, and the correct PIN is sent after each test that may send a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.contract.subjects import Can, Kind, Maker, Place, Row, Subject
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import KeyRecord
from ushield_hw.backend.module import Module
from ushield_hw.cli.pin_sources import PIN_FILE, read_secret
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.family import PinFlags
from ushield_hw.errors import UShieldError
from ushield_hw.interaction import PinState
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.choice import find_token
from ushield_hw.token.pin_operations import verify_pin
from ushield_hw.token.session import open_session
from ushield_hw.token.token import Token

NAME: Final = "device"
_ENOUGH: Final = 3  # attempts: two remain after one wrong PIN
_UNTOUCHED: Final = "Nothing is written to a person's token."
_WRITING: Final = (Can.GENERATE, Can.WRITE_CERTIFICATE, Can.SET_PIN, Can.INIT_PIN, Can.INIT_TOKEN)


@dataclass(frozen=True)
class Device:
    """The token, and what the tests may do with it.

    Attributes:
        token: as it was found.
        pin: its PIN. Not shown in failures.
        allow_lock: wrong PINs may be sent whatever the attempts remaining.
    """

    token: Token
    pin: str = field(repr=False)
    allow_lock: bool

    def check(self, state: PinState) -> None:
        """Stop if a wrong PIN was used on the token and no correct one since.

        Raises:
            pytest.UsageError: states what is known.
        """
        if not self.allow_lock and (state.low or state.final_try or state.locked):
            raise pytest.UsageError(
                f"the last PIN sent to {self.token.serial} was wrong ({state.retries_left} tries left, "
                f"locked: {state.locked}): log in to it with the right one first, or use --allow-lock"
            )

    def prove(self) -> None:
        """Send the correct PIN once."""
        verify_pin(self.token.link, Scripted(self.pin, consents=[self.allow_lock]))

    def may_be_wrong(self, state: PinState) -> bool:
        """Tell whether enough attempts would remain after a wrong PIN, as far as is known."""
        flags = self.token.driver.pin.flags is PinFlags.TRUSTED and state.low is False
        return self.allow_lock or flags or (state.retries_left or 0) >= _ENOUGH


def plugged_in(serial: str, pin_file: Path | None, *, allow_lock: bool) -> Row:
    """Find the token, send its PIN once, and determine its abilities.

    Raises:
        pytest.UsageError: there is no such token, its PIN is wrong or nearly locked, or it has no signing key.
    """
    try:
        return _row(Device(find_token(serial=serial), _pin(serial, pin_file), allow_lock))
    except UShieldError as error:
        raise pytest.UsageError(f"{error.code}: {error.message} {error.remedy}") from error


def _row(device: Device) -> Row:
    token, isolation = device.token, device.token.driver.module.isolation
    with closing(token.link.module):
        device.check(token.pin_state())
        device.prove()
        keys, shown = _keys(device), _private(token.link.module.keys(token.link.slot_id))
        cannot = {**_cannot(token, keys), **_cannot_show(device, shown)}
    held = {key.label: key.kind for key in keys if key.kind}
    title = f"{token.label} {token.serial}"
    return Row(Kind(NAME, title, _maker(device, held), cannot, ways=(isolation,)), isolation)


def _pin(serial: str, pin_file: Path | None) -> str:
    if pin_file is not None:
        return read_secret(str(pin_file), PIN_FILE)
    from getpass import getpass

    return getpass(f"PIN of {serial}: ")


def _private(keys: Iterable[KeyRecord]) -> tuple[KeyRecord, ...]:
    return tuple(key for key in keys if key.private)


def _keys(device: Device) -> tuple[KeyRecord, ...]:
    person = Scripted(device.pin, consents=[device.allow_lock])
    with open_session(device.token.link, person, "test") as session:
        found = _private(session.keys())
    if not any(key.kind and key.can_sign and not key.always_authenticate for key in found):
        raise pytest.UsageError(f"{device.token.serial} has no key that signs without its PIN each time")
    return found


def _cannot(token: Token, keys: tuple[KeyRecord, ...]) -> dict[Can, str]:
    cannot = dict.fromkeys((*_WRITING, Can.LOCK, Can.PLAIN_PROGRAM), _UNTOUCHED)
    plain = {key.kind for key in keys if key.can_sign and not key.always_authenticate}
    for ability, kind in ((Can.EC, KeyKind.EC_P256), (Can.P384, KeyKind.EC_P384), (Can.RSA, KeyKind.RSA)):
        if kind not in plain:
            cannot[ability] = "It has no such key."
    if not any(key.always_authenticate and key.kind is KeyKind.EC_P256 for key in keys):
        cannot[Can.CONTEXT_LOGIN] = "It has no such key."
    listed = token.link.module.mechanisms(token.link.slot_id)
    for ability, mechanism in ((Can.PSS, "RSA_PKCS_PSS"), (Can.HASH, "SHA256_RSA_PKCS")):
        if mechanism not in listed:
            cannot[ability] = f"{mechanism} is not listed."
    return cannot


def _cannot_show(device: Device, shown: tuple[KeyRecord, ...]) -> dict[Can, str]:
    cannot, driver = dict[Can, str](), device.token.driver
    if shown:
        cannot[Can.HIDE_KEYS] = "Shows a private key without a login."
    if not device.token.info.min_pin:
        cannot[Can.PIN_LENGTHS] = "Says 0."
    if driver.pin.flags is not PinFlags.TRUSTED:
        cannot[Can.COUNT_LOW] = f"Its flags are not trusted ({driver.id})."
    if not device.may_be_wrong(device.token.pin_state()):
        cannot[Can.WRONG_PIN] = "Nobody knows how many tries are left; --allow-lock sends wrong PINs nevertheless."
    return cannot


def _maker(device: Device, keys: dict[str, KeyKind]) -> Maker:
    token, spec = device.token, device.token.driver.module

    @contextmanager
    def make(place: Place, isolation: Isolation) -> Iterator[Subject]:
        """Yield the physical token itself."""
        device.check(token.pin_state())
        way = token.link.module
        assert isinstance(way, Module)
        other = Module(way.path, Isolation.PROCESS, spec.options, spec.deadline_s, way.environment)
        with ExitStack() as ending:
            ending.callback(way.close)
            ending.callback(device.prove)  # so that a wrong PIN is never the last one sent
            for one in (way, other):
                ending.callback(one.close)
            yield Subject(way, other, token.serial, device.pin, "", keys)

    return make
