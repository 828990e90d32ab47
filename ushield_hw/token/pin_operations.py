"""Verify, change and unblock a PIN. Each operation is refused while this process is logged in to the token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ushield_hw import errors
from ushield_hw.backend.model import TokenFlag, TokenInfo, User
from ushield_hw.drivers.family import Unblock
from ushield_hw.interaction import Interaction, Pin, PinKind, PinRequest, PinState
from ushield_hw.system.hardening import forgetting
from ushield_hw.system.log import LOG
from ushield_hw.token.link import Link
from ushield_hw.token.login import alone, fresh, login, logout, timeout_s
from ushield_hw.token.pin_guard import PinGuard


class HasLink(Protocol):
    """A token that was enumerated, such as :class:`ushield_hw.Token`."""

    @property
    def link(self) -> Link:
        """Module, slot and driver of the token."""
        ...


def link_of(token: HasLink | Link) -> Link:
    """Return the link of a token."""
    return token if isinstance(token, Link) else token.link


@forgetting
def verify_pin(token: HasLink | Link, interaction: Interaction) -> PinState:
    """Verify the PIN with one login, then log out.

    Args:
        token: The token, or its link.
        interaction: Prompts for the PIN.

    Returns:
        The state of the PIN afterwards.

    Raises:
        TokenBusy: This process is logged in, so the token would not check the PIN.
        PinError: As for :meth:`PinGuard.use`.
        TokenError, DriverError: The token or its module reported an error.
        StorageError: The attempt counter on this host cannot be read or written.
    """
    link = link_of(token)
    with alone(link):
        place, login_id, info = login(link, interaction, "verify")
        logout(place, login_id)
        return _state_after(link, info)


@forgetting
def change_pin(token: HasLink | Link, interaction: Interaction) -> PinState:
    """Change the PIN. Both PINs are prompted for and checked locally, then sent in one call.

    Args:
        token: The token, or its link.
        interaction: Prompts for the old and the new PIN.

    Returns:
        The state of the PIN afterwards.

    Raises:
        TokenBusy: This process is logged in.
        PinError: The PIN was not changed.
        TokenError: The PIN was not changed, unless the code is ``PIN_CHANGE_UNKNOWN``: then either the old or the new
            PIN is valid. If the files of a soft token cannot be written, the old PIN was tried and is still valid.
        StorageError: The attempt counter on this host cannot be read or written.
    """
    link = link_of(token)
    with alone(link):
        guard, new = link.pin, None
        info = link.info()
        ask = guard.request(PinKind.USER, "change", info)
        if not info.has(TokenFlag.PROTECTED_AUTHENTICATION_PATH):
            interaction = _AskedOnce(interaction, ask, guard, info)
            new = _new_pin(link, interaction, info)

        def send(old: str | None) -> errors.TokenError | None:
            try:
                with _telling_unknown():
                    _change(link, old, new)
            except errors.TokenError as error:
                plain = error.__cause__
                if not isinstance(plain, errors.SoftTokenNotWritten) or not _is_as_it_was(link, old):
                    raise
                return plain  # the PIN was correct: the attempt must not count as failed
            return None

        if (failed := guard.use(interaction, PinKind.USER, "change", send, info)) is not None:
            raise failed
        guard.note_changed()
        return _state_after(link)


@forgetting
def unblock_pin(token: HasLink | Link, interaction: Interaction) -> PinState:
    """Set a new PIN with the SO PIN or the PUK, depending on the token. The secret is sent once, never retried.

    Args:
        token: The token, or its link.
        interaction: Prompts for the SO PIN or PUK, and for the new PIN.

    Returns:
        The state of the PIN afterwards.

    Raises:
        PinError: ``PIN_UNBLOCK_UNAVAILABLE``: this token cannot be unblocked through PKCS#11. Otherwise the error
            reported by the token.
        TokenBusy: This process is logged in.
        TokenError, DriverError: The token or its module reported an error.
    """
    link = link_of(token)
    via = link.driver.pin.unblock
    if via is Unblock.NONE:
        raise errors.PinError("PIN_UNBLOCK_UNAVAILABLE", serial=link.serial)
    with alone(link):
        info = link.info()
        secret = new = None
        if not info.has(TokenFlag.PROTECTED_AUTHENTICATION_PATH):
            kind = PinKind.SO if via is Unblock.SO_INIT_PIN else PinKind.PUK
            secret = _answer(interaction, PinRequest(kind, info.serial, info.label, PinState(), "unblock"))
            link.pin.check_characters(secret, info)
            new = _new_pin(link, interaction, info)
        with link.pin.naming_limits():
            if via is Unblock.SO_INIT_PIN:
                _init_pin(link, secret, new)
            else:
                _set_pin_by_puk(link, secret, new)
        if counter := link.pin.counter:
            try:
                counter.reset()
            except errors.StorageError as error:
                LOG.warning("the count of failed tries was not reset: %s", error.code)  # the new PIN is set
        link.pin.note_changed()
        return _state_after(link)


@contextmanager
def _telling_unknown() -> Iterator[None]:
    """Raise ``PIN_CHANGE_UNKNOWN`` if C_SetPIN may have changed the PIN: no answer, or only a general error."""
    try:
        yield
    except errors.TokenError as error:
        lost = isinstance(error, errors.ModuleLost) and error.function == "set_pin"  # only the worker knew how far
        failed = error.failed_at(errors.Step.SET_PIN) and not error.failed_as(errors.Trait.NOTHING_DONE)
        if not (lost or failed) or isinstance(error, errors.TokenBusy | errors.TokenNotInitialized):
            raise
        plain = isinstance(error, errors.ModuleLost | errors.SoftTokenNotWritten)
        raise error.restated(errors.TokenError if plain else type(error), "PIN_CHANGE_UNKNOWN") from error


def _is_as_it_was(link: Link, pin: str | None) -> bool:
    """Tell whether a soft token still has its old PIN after its module could not write the new one.

    SoftHSM2 cannot read such a token until it is initialized again. Only in that state is the old PIN tried, which the
    token does not count as an attempt. A token that can be read may have the new PIN, with only the answer lost.
    """
    try:
        link.info()
    except errors.TokenError as unreadable:
        if not unreadable.failed_as(errors.Trait.VAGUE):
            return False
    else:
        return False
    try:
        place = fresh(link)
        logout(place, place.module.login(link.slot_id, User.USER, pin))
    except errors.UShieldError as refused:
        LOG.info("the old PIN does not hold any more, or cannot be tried: %s", refused.code)
        return False
    return True


def _state_after(link: Link, info: TokenInfo | None = None) -> PinState:
    """Return the state of the PIN after an operation, or an empty state: a failed read does not undo the operation."""
    try:
        return link.pin.state(info)
    except errors.UShieldError as error:
        LOG.warning("the state of the PIN could not be read: %s", error.code)
        return PinState()


def _change(link: Link, old: str | None, new: str | None) -> None:
    """Call C_SetPIN once, after a login if the token checks the old PIN only then, or would take it for the PUK."""
    link, login_id = fresh(link), None
    if link.driver.pin.login_to_change or link.driver.pin.unblock is Unblock.SET_PIN_UNLOGGED:
        login_id = link.module.login(link.slot_id, User.USER, old, deadline_s=timeout_s(link, old))
    try:
        link.module.set_pin(link.slot_id, old, new, deadline_s=timeout_s(link, old, entries=3))
    finally:
        logout(link, login_id)


def _set_pin_by_puk(link: Link, puk: str | None, new: str | None) -> None:
    try:
        link.module.set_pin(link.slot_id, puk, new, deadline_s=timeout_s(link, puk, entries=3))
    except errors.PinIncorrect as error:
        raise error.restated(errors.PinIncorrect, "PUK_INCORRECT", state=PinState()) from error
    except errors.PinLocked as error:
        raise error.restated(errors.PinLocked, "PUK_LOCKED", unblock=Unblock.NONE.value) from error


def _init_pin(link: Link, so_pin: str | None, new: str | None) -> None:
    try:
        login_id = link.module.login(link.slot_id, User.SO, so_pin, deadline_s=timeout_s(link, so_pin))
        try:  # OpenSC sends the SO PIN of some cards only in C_InitPIN
            link.module.init_pin(login_id, new, deadline_s=timeout_s(link, new, entries=2))
        finally:
            logout(link, login_id)
    except errors.PinIncorrect as error:
        raise error.restated(errors.PinIncorrect, "SO_PIN_INCORRECT", state=PinState()) from error
    except errors.PinLocked as error:
        raise error.restated(errors.PinLocked, "SO_PIN_LOCKED", unblock=Unblock.NONE.value) from error


class _AskedOnce:
    """Prompts for the old PIN before the new one, so that both are checked before anything is sent."""

    def __init__(self, person: Interaction, ask: PinRequest, guard: PinGuard, info: TokenInfo) -> None:
        self._person = person
        self._pin = _answer(person, ask)
        guard.check_format(self._pin, info)

    def request_pin(self, ask: PinRequest) -> str | None:
        return self._pin if ask.kind is PinKind.USER else self._person.request_pin(ask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._person, name)


def _answer(interaction: Interaction, ask: PinRequest) -> str:
    pin = interaction.request_pin(ask)
    if pin is None:
        raise errors.PinCancelled(serial=ask.serial)
    return Pin(pin)


def _new_pin(link: Link, interaction: Interaction, info: TokenInfo) -> str:
    # No attempts remaining in this prompt: a new PIN uses none, and the counter may be what unblocking resets.
    new = _answer(interaction, PinRequest(PinKind.NEW, info.serial, info.label, link.pin.limits(info), "change"))
    link.pin.check_format(new, info)
    return new
