"""An open token: one login, shared by all who open the same token in this process.

A second :func:`open_session` of the same token neither prompts nor checks a PIN; the login ends when the last session
is closed, when the token is pulled out, or when a per-signature PIN was wrong.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from ushield_hw import errors
from ushield_hw.backend.model import CertificateRecord, Identity, KeyRecord
from ushield_hw.drivers.catalogue import ConfirmText
from ushield_hw.interaction import Interaction, PinState
from ushield_hw.system.hardening import forgetting
from ushield_hw.token.link import Link
from ushield_hw.token.login import Owner, Standing, logged_in, opened, owner_of

_log: Final = logging.getLogger("ushield_hw")

_NOTICED_S: Final = 0.6
_NO_LOGIN_THERE: Final = errors.Trait.NO_LOGIN | errors.Trait.LOGGED_IN


_LOOK_S: Final = 2.0  # how often a session that is kept open looks whether its certificates are still the same


class Session:
    """An open token. Close it, or use it as a context manager. Safe to use from several threads.

    In a forked child every method but :meth:`close` raises ``DriverError`` (``USED_AFTER_FORK``): open the token there.

    Attributes:
        serial: the token's serial number, as it claims it.
        interaction: whoever is asked about PINs and orders.
    """

    def __init__(self, link: Link, interaction: Interaction, owner: Owner) -> None:
        self._opened = link
        self._owner = owner
        self._login_id = owner.login_id
        self._pid = os.getpid()
        self._closed = False
        self._seen: frozenset[tuple[bytes, str]] | None = None
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
            owner.link, owner.login_id, owner.standing = logged_in(self.link, self.interaction, purpose, None)
            owner.replaced = former
            self.forget()

    def pin_state(self) -> PinState:
        """Return what is known of the PIN; spends no try."""
        return self.link.pin.state()

    def certificates(self) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects on the token."""
        link = self.link
        found = link.module.certificates(link.slot_id)
        self._seen, self._seen_at = frozenset((record.der, record.label) for record in found), time.monotonic()
        return found

    def keys(self) -> tuple[KeyRecord, ...]:
        """Return the key objects on the token; without their secrets, which never leave it."""
        link = self.link
        return link.module.keys(link.slot_id)

    def refresh(self) -> None:
        """Forget what was kept if the token's certificates have changed: another process may have renewed one.

        They are listed every two seconds at most. Internal.
        """
        known = self._seen
        if known is not None and time.monotonic() - self._seen_at >= _LOOK_S:
            self.certificates()
            if self._seen != known:
                _log.info("the certificates on the token have changed")
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
    owner = owner_of(link)
    with owner.lock:
        if not owner.stands():
            owner.link, owner.login_id, owner.standing = opened(link, interaction, purpose)
            owner.users, owner.replaced = 0, None
        owner.users += 1
        return Session(owner.link, interaction, owner)
