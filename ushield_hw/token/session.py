"""An open token: one login, shared by all who open the same token in this process.

A second :func:`open_session` of the same token neither prompts nor checks a PIN; the login ends when the last session
is closed, when the token is pulled out, or when a per-signature PIN was wrong.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

from ushield_hw import errors
from ushield_hw.backend.model import (
    CertificateRecord,
    Identity,
    KeyRecord,
    ObjectProblem,
    SlotInfo,
    TokenFlag,
    TokenInfo,
    User,
)
from ushield_hw.backend.module import Module
from ushield_hw.backend.pkcs11.ckr import GONE
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import ConfirmText, Driver, Unblock
from ushield_hw.interaction import Interaction, Pin, PinKind, PinRequest, PinState
from ushield_hw.system.hardening import forgetting
from ushield_hw.token.pin_guard import NO_LOGIN, PinGuard

_log: Final = logging.getLogger("ushield_hw")

_VAGUE: Final = frozenset({"CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED"})
_NOTICED_S: Final = 0.6
_ABSENT: Final = frozenset(f"CKR_{name}" for name in (*GONE, "TOKEN_NOT_RECOGNIZED"))
_NO_LOGIN_THERE: Final = NO_LOGIN | {"CKR_USER_ALREADY_LOGGED_IN"}
_WORKER_LOST: Final = frozenset({"MODULE_HUNG", "MODULE_CRASHED"})
# What a token answers to C_SetPIN that has refused it and done nothing.
_NOT_DONE: Final = frozenset(
    "CKR_ARGUMENTS_BAD CKR_CANCEL CKR_CRYPTOKI_NOT_INITIALIZED CKR_FUNCTION_CANCELED CKR_FUNCTION_NOT_SUPPORTED "
    "CKR_FUNCTION_REJECTED CKR_SESSION_READ_ONLY CKR_TOKEN_WRITE_PROTECTED CKR_USER_NOT_LOGGED_IN".split()
)


_LOOK_S: Final = 2.0  # how often a session that is kept open looks whether its certificates are still the same


@dataclass(frozen=True, slots=True)
class Link:
    """Where a token is: its module, slot and driver. Internal: a payment key never signs for callers through it.

    Attributes:
        found_by: the module that has shown it; in a forked child that of the parent, see :attr:`module`.
        slot_id: the slot there.
        serial: the token's serial number, as it claims it.
        driver: the token's family.
        settings: those in force when it was found.
        identity: what else it must say of itself, beside its serial number, to be the same token; None: nothing.
    """

    found_by: Module
    slot_id: int
    serial: str
    driver: Driver
    settings: Settings
    identity: Identity | None = None

    @property
    def module(self) -> Module:
        """The module in this process: a token that was found before a fork can be opened after it."""
        return self.found_by.here

    def info(self) -> TokenInfo:
        """Return the token's information as it is now.

        Raises:
            TokenRemoved: another token, or none, is in the slot.
        """
        info = self.module.token(self.slot_id)
        if not self.names(info):
            raise errors.TokenRemoved(serial=self.serial)
        return info

    def names(self, info: TokenInfo) -> bool:
        """Tell whether a token in the slot is this one, as far as it says: a serial number alone may be of many."""
        return info.serial == self.serial and self.identity in {None, info.identity}

    def is_gone_after(self, error: errors.UShieldError) -> bool:
        """Tell whether a call failed because the token was pulled out, though its module did not say so.

        OpenSC answers CKR_GENERAL_ERROR until it has noticed, which takes it up to 0.4 s; what is in files is gone at
        once.
        """
        if error.details.get("ckr") not in _VAGUE:
            return False
        until = time.monotonic() + (0.0 if self.module.options.relist else _NOTICED_S)
        while True:
            try:
                if not any(self._may_hold(slot) for slot in self.module.slots()):
                    return True
            except errors.UShieldError:
                return False  # it is not the token that is gone
            if time.monotonic() >= until:
                return False
            time.sleep(_NOTICED_S / 10)

    def _may_hold(self, slot: SlotInfo) -> bool:
        """Tell whether a slot holds the token, as far as that can be told: one that cannot be read may.

        SoftHSM2 cannot read a token any more whose files it could not write.
        """
        if slot.token is not None:
            return self.names(slot.token)
        return slot.slot_id == self.slot_id and slot.problem is not None and slot.problem not in _ABSENT

    @contextmanager
    def noticing_removal(self) -> Iterator[None]:
        """Say that the token was pulled out where that is why a call in the block has failed.

        Raises:
            TokenRemoved: that, for whatever the module said.
        """
        try:
            yield
        except errors.UShieldError as error:
            if not isinstance(error, errors.TokenRemoved) and self.is_gone_after(error):
                raise errors.TokenRemoved(serial=self.serial) from error
            raise

    @property
    def pin(self) -> PinGuard:
        """The token's PIN."""
        return PinGuard(self.info, self.identity, self.driver, self.settings, self.module.path)

    @property
    def key(self) -> _Key:
        """What the login of this token is filed under."""
        return self.module, self.slot_id, self.identity or self.serial

    def fresh(self) -> Link:
        """Return where to log in so that the token's PIN is the one that holds now.

        A module that sees only what was there when it was initialised cannot be initialised again while somebody is
        logged in to another of its tokens. Then the token is reached through a worker of its own.
        """
        if not self.module.options.relist or not _another_stands(self):
            return self
        return replace(self, found_by=self.module.apart(repr(self.identity or self.serial)))


_Key = tuple[Module, int, Identity | str]
_Opened = tuple[Link, int, "Standing", TokenInfo]
"""Where a token is held, what stands for the login, how it stands, and what the token says then."""


class Standing(Enum):
    """How an open token stands."""

    LOGGED_IN = "logged-in"
    NOT_NEEDED = "not-needed"  # its private keys show without a login, and none was tried
    REFUSED = "refused"  # it takes no login


@dataclass(slots=True)
class _Owner:
    """The login of one token. ``link``: where it was logged in to, see :meth:`Link.fresh`."""

    link: Link
    lock: threading.RLock = field(default_factory=threading.RLock)
    login_id: int | None = None
    users: int = 0
    standing: Standing = Standing.LOGGED_IN
    info: TokenInfo | None = None  # as the token said when it was opened
    replaced: int | None = None  # what stood for the login before there was one

    def stands(self) -> bool:
        """Tell whether this process is logged in, as far as the module's side knows."""
        return self.login_id is not None and self.link.module.logged_in(self.login_id)

    def hold(self, opened: _Opened) -> None:
        """Keep what a login, or what stands for one, gave."""
        self.link, self.login_id, self.standing, self.info = opened

    def logout(self) -> None:
        """End the login."""
        login_id, self.login_id = self.login_id, None
        _logout(self.link, login_id)


_owners: Final[dict[_Key, _Owner]] = {}
_owners_lock = threading.Lock()


def _another_stands(link: Link) -> bool:
    """Tell whether this process is logged in to another token of a module."""
    with _owners_lock:
        others = [owner for key, owner in _owners.items() if key[0] is link.module and key != link.key]
    return any(owner.link.module is link.module and owner.stands() for owner in others)


def _after_fork() -> None:
    """In a forked child: the logins are the parent's, and another thread may have held the lock."""
    global _owners_lock  # noqa: PLW0603
    _owners_lock = threading.Lock()
    _owners.clear()


os.register_at_fork(after_in_child=_after_fork)


class Session:
    """An open token. Close it, or use it as a context manager. Safe to use from several threads.

    In a forked child every method but :meth:`close` raises ``DriverError`` (``USED_AFTER_FORK``): open the token there.

    Attributes:
        serial: the token's serial number, as it claims it.
        interaction: whoever is asked about PINs and orders.
    """

    def __init__(self, link: Link, interaction: Interaction, owner: _Owner) -> None:
        self._opened = link
        self._owner = owner
        self._login_id = owner.login_id
        self._pid = os.getpid()
        self._closed = False
        self._seen: dict[bytes | None, frozenset[tuple[bytes, str]]] = {}  # by the CKA_ID that was looked for
        self._seen_at = 0.0
        self._kept: dict[object, Any] = {}
        self._kept_lock = threading.Lock()
        self.serial = link.serial
        self.interaction = interaction

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End this session; the last one of a token logs out. What fails in that is logged: what was done stands.

        In a forked child it does nothing: the session is the parent's.
        """
        if self._pid != os.getpid():
            return
        with self._owner.lock:
            if self._closed:
                return
            self._closed = True
            if self._owner.login_id != self._current():
                return
            self._owner.users -= 1
            if self._owner.users == 0:
                self._owner.logout()

    @property
    def identity(self) -> Identity:
        """What the token says of itself; what is kept of a token on this host is kept under it."""
        return self.link.identity or self.link.info().identity

    @property
    def link(self) -> Link:
        """Where the token is. Internal to this library.

        Raises:
            DriverError: ``USED_AFTER_FORK``.
        """
        if self._pid != os.getpid():
            raise errors.DriverError("USED_AFTER_FORK", path=str(self._opened.found_by.path))
        return self._opened

    @property
    def login_id(self) -> int:
        """The login this session stands on. Internal to this library.

        Raises:
            TokenError: ``SESSION_CLOSED``.
            DriverError: ``USED_AFTER_FORK``.
        """
        self.link  # noqa: B018 - refuses after a fork
        login_id = self._current()
        if self._closed or login_id is None:
            raise errors.TokenError("SESSION_CLOSED", serial=self.serial)
        return login_id

    def _current(self) -> int | None:
        """Return what this session stands on: where there was no login at first, the one that came later."""
        if self._login_id is not None and self._login_id == self._owner.replaced:
            self._opened, self._login_id = self._owner.link, self._owner.login_id
        return self._login_id

    @property
    def shows_all(self) -> bool:
        """Whether a login would show nothing more: there was one, or the token takes none."""
        return self._owner.standing is not Standing.NOT_NEEDED

    def log_in(self, purpose: str) -> None:
        """Log in to a token that was opened without a login; do nothing where there was one.

        Raises:
            PinError, TokenError, DriverError, StorageError: as :func:`open_session`; the session stays open.
        """
        with self._owner.lock:
            if self._closed or self._owner.standing is not Standing.NOT_NEEDED:
                return
            owner, former = self._owner, self._owner.login_id
            owner.hold(_logged_in(self.link, self.interaction, purpose, None))
            owner.replaced = former
            self.forget()

    def info(self) -> TokenInfo:
        """Return the token's information as it is now; as it was at the login where it cannot be read any more.

        SoftHSM2 cannot read a token after a login that it could not write down; it signs all the same.

        Raises:
            TokenRemoved: another token, or none, is in the slot.
        """
        link, known = self.link, self._owner.info
        return link.info() if known is None else _after(link, known)

    def pin_state(self) -> PinState:
        """Return what is known of the PIN; spends no try."""
        return self.link.pin.state(self.info())

    def certificates(self, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects on the token; at least those with ``key_id``, where that is known."""
        link = self.link
        found = link.module.certificates(link.slot_id, key_id)
        self._seen[key_id], self._seen_at = frozenset((record.der, record.label) for record in found), time.monotonic()
        return found

    def keys(self, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the key objects on the token, without their secrets; at least those with ``key_id``."""
        link = self.link
        return link.module.keys(link.slot_id, key_id)

    def unread(self) -> tuple[ObjectProblem, ...]:
        """Return what cannot be read of the objects on the token."""
        return self.link.module.contents(self.link.slot_id).problems

    def refresh(self) -> None:
        """Forget what was kept if the token's certificates have changed: another process may have renewed one.

        They are listed every two seconds at most. Internal.
        """
        if time.monotonic() - self._seen_at < _LOOK_S:
            return
        known = dict(self._seen)
        if None in known:  # all were looked at, and so those of one id
            known = {None: known[None]}
        for key_id in known:
            self.certificates(key_id)
        if not known or any(self._seen.get(key_id) != seen for key_id, seen in known.items()):
            _log.debug("the certificates on the token are not those that were known")
            self.forget()

    def kept(self, name: object, make: Callable[[], Any]) -> Any:
        """Return what ``make`` gave the first time; for what does not change while the token stays in. Internal."""
        try:
            return self._kept[name]
        except KeyError:
            with self._kept_lock:
                return self._kept[name] if name in self._kept else self._kept.setdefault(name, make())

    def forget(self) -> None:
        """Drop what was kept: the token's objects have changed. Internal."""
        with self._kept_lock:
            self._kept.clear()
            self._seen = {}


@forgetting
def open_session(link: Link, interaction: Interaction, purpose: str) -> Session:
    """Log in to a token, or join the login that this process already has.

    Raises:
        PinError: nothing was opened; what the person must know is in it.
        TokenError, DriverError, StorageError: likewise.
        InputError: ``DESCRIPTOR_NEEDS_CONSENT``: by a descriptor that anyone can write, the token shows what it signs.
    """
    if link.driver.confirm.text is ConfirmText.MESSAGE and not link.driver.consented:
        raise errors.InputError("DESCRIPTOR_NEEDS_CONSENT", file=str(link.driver.file), id=link.driver.id)
    owner = _owner(link)
    with owner.lock:
        if not owner.stands():
            owner.hold(_opened(link, interaction, purpose))
            owner.users, owner.replaced = 0, None
        owner.users += 1
        return Session(owner.link, interaction, owner)


@forgetting
def verify_pin(link: Link, interaction: Interaction) -> PinState:
    """Check the PIN with the token, once, and log out again.

    Raises:
        TokenBusy: this process is logged in; the token would not check the PIN.
        PinError: as :meth:`PinGuard.use`.
    """
    with _alone(link):
        place, login_id, info = _login(link, interaction, "verify")
        _logout(place, login_id)
        return _state_after(link, info)


@forgetting
def change_pin(link: Link, interaction: Interaction) -> PinState:
    """Change the PIN: asks for the old and the new one, checks both first, and sends them in one C_SetPIN.

    Raises:
        TokenBusy: this process is logged in.
        PinError: nothing was changed.
        TokenError: likewise, unless the code is ``PIN_CHANGE_UNKNOWN``: then the old or the new PIN holds. Where a
            soft token's files cannot be written, the old one was tried and holds.
    """
    with _alone(link):
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
                if not isinstance(plain, errors.TokenError) or not _is_as_it_was(link, plain, old):
                    raise
                return plain  # the PIN was right, and the try that it took is given back
            return None

        if (failed := guard.use(interaction, PinKind.USER, "change", send, info)) is not None:
            raise failed
        guard.note_changed()
        return _state_after(link)


@forgetting
def unblock_pin(link: Link, interaction: Interaction) -> PinState:
    """Set a new PIN by the SO PIN or the PUK, whichever this token takes. Neither is ever sent twice.

    Raises:
        PinError: ``PIN_UNBLOCK_UNAVAILABLE``: this token cannot be unblocked through PKCS#11; or as the token says.
        TokenBusy: this process is logged in.
    """
    via = link.driver.pin.unblock
    if via is Unblock.NONE:
        raise errors.PinError("PIN_UNBLOCK_UNAVAILABLE", serial=link.serial)
    with _alone(link):
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
                _log.warning("the count of failed tries was not reset: %s", error.code)  # the new PIN is set
        link.pin.note_changed()
        return _state_after(link)


@contextmanager
def _telling_unknown() -> Iterator[None]:
    """Say that either PIN may hold now when C_SetPIN gave no answer, or none but that something went wrong."""
    try:
        yield
    except errors.TokenError as error:
        place = error.details.get("function")
        lost = error.code in _WORKER_LOST and place == "set_pin"  # how far it came only the worker knew
        failed = place == "C_SetPIN" and error.details.get("ckr") not in _NOT_DONE
        if not (lost or failed) or isinstance(error, errors.TokenBusy | errors.TokenNotInitialized):
            raise
        raise type(error)("PIN_CHANGE_UNKNOWN", **error.details) from error


def _is_as_it_was(link: Link, error: errors.TokenError, pin: str | None) -> bool:
    """Tell whether a soft token has its old PIN still, after one that its module could not write.

    SoftHSM2 cannot read such a token any more until it is initialised again. Only then is the old PIN tried, which the
    token itself does not count: a token that is well has lost the answer and may have the new one.
    """
    if error.code != "SOFT_TOKEN_NOT_WRITTEN":
        return False
    try:
        link.info()
    except errors.TokenError as unreadable:
        if unreadable.details.get("ckr") not in _VAGUE:
            return False
    else:
        return False
    try:
        place = link.fresh()
        _logout(place, place.module.login(link.slot_id, User.USER, pin))
    except errors.UShieldError as refused:
        _log.info("the old PIN does not hold any more, or cannot be tried: %s", refused.code)
        return False
    return True


def _state_after(link: Link, info: TokenInfo | None = None) -> PinState:
    """Return what is known of the PIN after something was done; that it cannot be read now undoes nothing."""
    try:
        return link.pin.state(info)
    except errors.UShieldError as error:
        _log.warning("the state of the PIN could not be read: %s", error.code)
        return PinState()


def _change(link: Link, old: str | None, new: str | None) -> None:
    """One C_SetPIN; after a login where the old PIN is not checked without one, or taken for the PUK."""
    link, login_id = link.fresh(), None
    if link.driver.pin.login_to_change or link.driver.pin.unblock is Unblock.SET_PIN_UNLOGGED:
        login_id = link.module.login(link.slot_id, User.USER, old, deadline_s=_patience_s(link, old))
    try:
        link.module.set_pin(link.slot_id, old, new, deadline_s=_patience_s(link, old, entries=3))
    finally:
        _logout(link, login_id)


def _set_pin_by_puk(link: Link, puk: str | None, new: str | None) -> None:
    try:
        link.module.set_pin(link.slot_id, puk, new, deadline_s=_patience_s(link, puk, entries=3))
    except errors.PinIncorrect as error:
        raise errors.PinIncorrect("PUK_INCORRECT", state=PinState(), **error.details) from error
    except errors.PinLocked as error:
        raise errors.PinLocked("PUK_LOCKED", unblock=Unblock.NONE.value, **error.details) from error


def _init_pin(link: Link, so_pin: str | None, new: str | None) -> None:
    try:
        login_id = link.module.login(link.slot_id, User.SO, so_pin, deadline_s=_patience_s(link, so_pin))
        try:  # OpenSC hands the SO PIN of some cards over only here
            link.module.init_pin(login_id, new, deadline_s=_patience_s(link, new, entries=2))
        finally:
            _logout(link, login_id)
    except errors.PinIncorrect as error:
        raise errors.PinIncorrect("SO_PIN_INCORRECT", state=PinState(), **error.details) from error
    except errors.PinLocked as error:
        raise errors.PinLocked("SO_PIN_LOCKED", unblock=Unblock.NONE.value, **error.details) from error


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


def _patience_s(link: Link, pin: str | None, *, entries: int = 1) -> float | None:
    """Return how long to wait for a person who types at the token so many times; None: the PIN comes from here."""
    return float(link.driver.confirm.timeout_s * entries) if pin is None else None


def _opened(link: Link, interaction: Interaction, purpose: str) -> _Opened:
    """Log in, or hold a token that needs no login.

    A token whose CKF_LOGIN_REQUIRED is clear may show its private keys all the same, and may refuse every C_Login.
    """
    with link.noticing_removal():
        info = link.info()
        if info.has(TokenFlag.LOGIN_REQUIRED):
            place, login_id, said = _login(link, interaction, purpose, info)
            return place, login_id, Standing.LOGGED_IN, said
        if purpose == "sign" and any(key.private for key in link.module.keys(link.slot_id)):
            return link, link.module.attend(link.slot_id), Standing.NOT_NEEDED, info
    return _logged_in(link, interaction, purpose, info)


def _logged_in(link: Link, interaction: Interaction, purpose: str, info: TokenInfo | None) -> _Opened:
    """Log in to a token that says that it needs no login; hold it without one if it takes none."""
    info = info or link.info()
    try:
        place, login_id, said = _login(link, interaction, purpose, info)
        return place, login_id, Standing.LOGGED_IN, said
    except (errors.TokenError, errors.PinError) as error:
        if error.details.get("ckr") not in _NO_LOGIN_THERE:
            raise
        _log.info("no login: %s", error.details.get("ckr"))
        return link, link.module.attend(link.slot_id), Standing.REFUSED, info


def _login(
    link: Link, interaction: Interaction, purpose: str, info: TokenInfo | None = None
) -> tuple[Link, int, TokenInfo]:
    """Log in; if anything goes wrong after the token said yes, log out again.

    Args:
        link: the token.
        interaction: asked for the PIN.
        purpose: said in the prompt.
        info: what the token has just said; None: it is asked.

    Returns:
        Where, the login, and what the token says now.
    """
    info, logins = info or link.info(), list[tuple[Link, int]]()

    def send(pin: str | None) -> None:
        place = link.fresh()  # now, not before the person was asked
        logins.append((place, place.module.login(link.slot_id, User.USER, pin, deadline_s=_patience_s(link, pin))))

    try:
        link.pin.use(interaction, PinKind.USER, purpose, send, info)
        place, login_id = logins[0]
        return place, login_id, _after(place, info)  # the token that was asked for is still the one in the slot
    except BaseException as error:
        for place, login_id in logins:
            _logout(place, login_id)
        if isinstance(error, errors.UShieldError) and link.is_gone_after(error):
            raise errors.TokenRemoved(serial=link.serial) from error
        raise


def _after(place: Link, before: TokenInfo) -> TokenInfo:
    """Return what a token says after a login; what it said before where it cannot say any more, and is still there.

    Raises:
        TokenRemoved: it is not, or it is another one.
    """
    try:
        return place.info()
    except errors.TokenError as error:
        if error.details.get("ckr") not in _VAGUE or place.is_gone_after(error):
            raise
        _log.warning("the token cannot be read after the login: %s", error.details.get("ckr"))
        return before


def _logout(link: Link, login_id: int | None) -> None:
    """End a login, and a worker that was there for it alone (see :meth:`Link.fresh`).

    What fails here is logged: it undoes nothing of what was done while logged in.
    """
    if login_id is None:
        return
    try:
        link.module.logout(login_id)
    except errors.UShieldError as error:
        expected = error.code in {"TOKEN_REMOVED", "LOGIN_ENDED", *_WORKER_LOST}
        _log.log(logging.INFO if expected else logging.WARNING, "no logout: %s", error.code)
    finally:
        if link.module.name:
            link.module.close()


def _owner(link: Link) -> _Owner:
    with _owners_lock:
        return _owners.setdefault(link.key, _Owner(link))


@contextmanager
def _alone(link: Link) -> Iterator[None]:
    """Refuse if this process is logged in to the token, and keep it from logging in meanwhile."""
    owner = _owner(link)
    with owner.lock:
        if owner.stands():
            raise errors.TokenBusy(holder="this process")
        yield
