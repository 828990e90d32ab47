"""Check, change and unblock a PIN. Each refuses while this process is logged in to the token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ushield_hw import errors
from ushield_hw.backend.model import TokenFlag, TokenInfo, User
from ushield_hw.drivers.catalogue import Unblock
from ushield_hw.interaction import Interaction, Pin, PinKind, PinRequest, PinState
from ushield_hw.system.hardening import forgetting
from ushield_hw.system.log import LOG
from ushield_hw.token.link import Link
from ushield_hw.token.login import alone, fresh, login, logout, patience_s
from ushield_hw.token.pin_guard import PinGuard


class HasLink(Protocol):
    """A token that was found: :class:`ushield_hw.Token`."""

    @property
    def link(self) -> Link:
        """Where it is."""
        ...


def link_of(token: HasLink | Link) -> Link:
    """Return where a token is."""
    return token if isinstance(token, Link) else token.link


@forgetting
def verify_pin(token: HasLink | Link, interaction: Interaction) -> PinState:
    """Check the PIN with the token, once, and log out again.

    Args:
        token: the token, or where it is.
        interaction: asked for the PIN.

    Returns:
        What is known of the PIN afterwards.

    Raises:
        TokenBusy: this process is logged in; the token would not check the PIN.
        PinError: as :meth:`PinGuard.use`.
    """
    link = link_of(token)
    with alone(link):
        place, login_id, info = login(link, interaction, "verify")
        logout(place, login_id)
        return _state_after(link, info)


@forgetting
def change_pin(token: HasLink | Link, interaction: Interaction) -> PinState:
    """Change the PIN: asks for the old and the new one, checks both first, and sends them in one call.

    Args:
        token: the token, or where it is.
        interaction: asked for both PINs.

    Returns:
        What is known of the PIN afterwards.

    Raises:
        TokenBusy: this process is logged in.
        PinError: nothing was changed.
        TokenError: likewise, unless the code is ``PIN_CHANGE_UNKNOWN``: then the old or the new PIN holds. Where a
            soft token's files cannot be written, the old one was tried and holds.
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
                return plain  # the PIN was right, and the attempt that it took is given back
            return None

        if (failed := guard.use(interaction, PinKind.USER, "change", send, info)) is not None:
            raise failed
        guard.note_changed()
        return _state_after(link)


@forgetting
def unblock_pin(token: HasLink | Link, interaction: Interaction) -> PinState:
    """Set a new PIN by the SO PIN or the PUK, whichever this token takes. Neither is ever sent twice.

    Args:
        token: the token, or where it is.
        interaction: asked for the SO PIN or PUK, and for the new PIN.

    Returns:
        What is known of the PIN afterwards.

    Raises:
        PinError: ``PIN_UNBLOCK_UNAVAILABLE``: this token cannot be unblocked through PKCS#11; or as the token says.
        TokenBusy: this process is logged in.
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
    """Say that either PIN may hold now when C_SetPIN gave no answer, or none but that something went wrong."""
    try:
        yield
    except errors.TokenError as error:
        lost = isinstance(error, errors.ModuleLost) and error.function == "set_pin"  # only the worker knew how far
        failed = error.failed_at(errors.Step.SET_PIN) and not error.failed_as(errors.Trait.NOTHING_DONE)
        if not (lost or failed) or isinstance(error, errors.TokenBusy | errors.TokenNotInitialized):
            raise
        raise error.restated(type(error), "PIN_CHANGE_UNKNOWN") from error


def _is_as_it_was(link: Link, pin: str | None) -> bool:
    """Tell whether a soft token has its old PIN still, after one that its module could not write.

    SoftHSM2 cannot read such a token any more until it is initialised again. Only then is the old PIN tried, which the
    token itself does not count: a token that is well has lost the answer and may have the new one.
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
    """Return what is known of the PIN after something was done; that it cannot be read now undoes nothing."""
    try:
        return link.pin.state(info)
    except errors.UShieldError as error:
        LOG.warning("the state of the PIN could not be read: %s", error.code)
        return PinState()


def _change(link: Link, old: str | None, new: str | None) -> None:
    """One C_SetPIN; after a login where the old PIN is not checked without one, or taken for the PUK."""
    link, login_id = fresh(link), None
    if link.driver.pin.login_to_change or link.driver.pin.unblock is Unblock.SET_PIN_UNLOGGED:
        login_id = link.module.login(link.slot_id, User.USER, old, deadline_s=patience_s(link, old))
    try:
        link.module.set_pin(link.slot_id, old, new, deadline_s=patience_s(link, old, entries=3))
    finally:
        logout(link, login_id)


def _set_pin_by_puk(link: Link, puk: str | None, new: str | None) -> None:
    try:
        link.module.set_pin(link.slot_id, puk, new, deadline_s=patience_s(link, puk, entries=3))
    except errors.PinIncorrect as error:
        raise error.restated(errors.PinIncorrect, "PUK_INCORRECT", state=PinState()) from error
    except errors.PinLocked as error:
        raise error.restated(errors.PinLocked, "PUK_LOCKED", unblock=Unblock.NONE.value) from error


def _init_pin(link: Link, so_pin: str | None, new: str | None) -> None:
    try:
        login_id = link.module.login(link.slot_id, User.SO, so_pin, deadline_s=patience_s(link, so_pin))
        try:  # OpenSC hands the SO PIN of some cards over only here
            link.module.init_pin(login_id, new, deadline_s=patience_s(link, new, entries=2))
        finally:
            logout(link, login_id)
    except errors.PinIncorrect as error:
        raise error.restated(errors.PinIncorrect, "SO_PIN_INCORRECT", state=PinState()) from error
    except errors.PinLocked as error:
        raise error.restated(errors.PinLocked, "SO_PIN_LOCKED", unblock=Unblock.NONE.value) from error


class _AskedOnce:
    """The person, asked for the old PIN ahead of the new one so that both are checked before anything is sent."""

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
    # Nothing is said of tries: a new PIN has none to spend, and the count may be what the unblocking is to repair.
    new = _answer(interaction, PinRequest(PinKind.NEW, info.serial, info.label, link.pin.limits(info), "change"))
    link.pin.check_format(new, info)
    return new
