"""G: the PIN. Its state is read, but no login is made and no attempt is used.

A wrong PIN, a PIN of the wrong length and an existing login only show in the error code of a program that tried:
:func:`ushield_hw.doctor.codes.explained` explains such codes.
"""

from __future__ import annotations

from typing import Any, Final

from ushield_hw.backend.model import TokenFlag
from ushield_hw.doctor.finding import Outcome, Priority, Probe, Rule, Said, fail, ok, probe, skip, warn
from ushield_hw.doctor.subjects import TokenSeen
from ushield_hw.drivers.family import ConfirmKind
from ushield_hw.drivers.match import UsbId
from ushield_hw.errors import StorageError
from ushield_hw.interaction import CountSource

_TOKEN: Final = Rule(failed=Priority.TOKEN)
_PROTECTED: Final = TokenFlag.PROTECTED_AUTHENTICATION_PATH


@probe("G62", "pin.tries", _TOKEN)
def tries(seen: TokenSeen) -> Said:
    """Check the PIN attempts remaining: a wrong PIN was entered since the last correct one."""
    if not _has_pin(seen):
        return skip("no_pin")
    try:
        state = seen.pin
    except StorageError as error:  # without the attempt counter this host sends no PIN
        return fail(kind="counter", code=error.code, **_named(seen), **_where(error))
    facts = {**_named(seen), "retries_left": state.retries_left, "source": state.source.value}
    if state.locked:
        return skip("locked")
    if state.final_try:
        return warn(kind="last", **facts)
    if state.low:
        return warn(kind="low" if state.retries_left is None else "counted", **facts)
    return skip("token_does_not_say") if state.source is CountSource.NONE else ok(**facts)


@probe("G63", "pin.length", _TOKEN)
def length(seen: TokenSeen) -> Said:
    """Check the token's PIN length limits; contradictory limits are ignored."""
    info, limits = seen.token.info, seen.token.pin_limits()
    if info.min_pin > info.max_pin > 0:
        return warn(kind="never", **_named(seen), min=info.min_pin, max=info.max_pin)
    facts = {**_named(seen), "min": limits.min_length, "max": limits.max_length}
    return ok(**facts) if limits.max_length or limits.min_length else skip("token_does_not_say")


@probe("G64", "pin.locked", Rule(failed=Priority.TOKEN, exits=Outcome.PIN_LOCKED))
def locked(seen: TokenSeen) -> Said:
    """Check whether the PIN is locked: no attempts remaining."""
    if not _has_pin(seen):
        return skip("no_pin")
    try:
        state = seen.pin
    except StorageError as error:
        return skip("not_known", code=error.code)
    facts = {**_named(seen), "source": state.source.value}
    if not state.locked:
        return skip("token_does_not_say") if state.locked is None else ok(**facts)
    unblock = seen.token.driver.pin.unblock.value
    so_locked = seen.token.info.has(TokenFlag.SO_PIN_LOCKED)
    return fail(kind="so_locked" if so_locked else unblock, uri=seen.token.uri, unblock=unblock, **facts)


@probe("G65", "pin.set", _TOKEN)
def is_set(seen: TokenSeen) -> Said:
    """Check whether a user PIN is set and does not have to be changed first."""
    info = seen.token.info
    if not info.has(TokenFlag.TOKEN_INITIALIZED):
        return skip("not_initialised")
    if not info.has(TokenFlag.USER_PIN_INITIALIZED):
        return fail(kind="never", uri=seen.token.uri, **_named(seen))
    if info.has(TokenFlag.USER_PIN_TO_BE_CHANGED):
        return fail(kind="change", uri=seen.token.uri, **_named(seen))
    return ok(**_named(seen))


@probe("G66", "pin.entry", _TOKEN)
def entry(seen: TokenSeen) -> Said:
    """Check whether the PIN is entered where the module reports: on the token or on the computer."""
    info, driver = seen.token.info, seen.token.driver
    on_token = info.has(_PROTECTED)
    facts = {**_named(seen), "typed_on": "token" if on_token else "computer"}
    plugged = _plugged(seen)
    has_pad = driver.confirm.kind is ConfirmKind.PINPAD or any(usb.pinpad for usb in plugged)
    if has_pad and not on_token:
        return warn(kind="unused", product=driver.product, **facts)
    if on_token and not has_pad and plugged and all(usb.pinpad is False for usb in plugged):
        return warn(kind="no_pad", product=driver.product, **facts)
    return ok(**facts)


@probe("G67", "pin.session", _TOKEN)
def session(seen: TokenSeen) -> Said:
    """Check for an existing login. PKCS#11 hides logins of other programs, so only an error code can show it."""
    return skip("only_a_code_tells", codes=["CKR_USER_ALREADY_LOGGED_IN", "CKR_USER_ANOTHER_ALREADY_LOGGED_IN"])


def _has_pin(seen: TokenSeen) -> bool:
    return seen.token.info.has(TokenFlag.TOKEN_INITIALIZED) and seen.token.info.has(TokenFlag.USER_PIN_INITIALIZED)


def _named(seen: TokenSeen) -> dict[str, Any]:
    return {"label": seen.token.label, "serial": seen.token.serial}


def _where(error: StorageError) -> dict[str, Any]:
    return {"path": str(error.path), "reason": str(error.reason)}


def _plugged(seen: TokenSeen) -> list[UsbId]:
    """Return the USB ids of the token's family that are on the bus.

    This does not prove that the token is one of these devices.
    """
    on_the_bus = {device.id for device in seen.loaded.file.machine.usb or ()}
    return [usb for usb in seen.token.driver.usb if str(usb) in on_the_bus]


PROBES: Final[tuple[Probe[TokenSeen], ...]] = (tries, length, locked, is_set, entry, session)
