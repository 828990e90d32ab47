"""An open token: one login, shared by all who open the same token in this process.

A second :func:`open_session` of the same token neither prompts nor checks a PIN; the login ends when the last session
is closed, when the token is pulled out, or when a per-signature PIN was wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ushield_hw import errors
from ushield_hw.backend.interface import PATIENCE, Patience
from ushield_hw.backend.model import (
    CertificateRecord,
    Identity,
    KeyRecord,
    ObjectProblem,
    PublicKey,
    SignCall,
    TokenInfo,
)
from ushield_hw.cms.der import integer
from ushield_hw.config import Settings
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.catalogue import ConfirmText, Driver
from ushield_hw.interaction import Interaction, PinState
from ushield_hw.system.hardening import forgetting
from ushield_hw.system.log import LOG
from ushield_hw.token.link import Link
from ushield_hw.token.login import Owner, Standing, logged_in, opened, owner_of, said_after

if TYPE_CHECKING:
    from ushield_hw.cms import CertificateFacts

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
        self._seen: dict[bytes | None, frozenset[tuple[bytes, str]]] = {}  # by the id that was looked for
        self._seen_at = 0.0
        self._revision = 0
        self._checked: set[tuple[int, bytes]] = set()
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
            owner.hold(logged_in(self.link, self.interaction, purpose, None))
            owner.replaced = former
            self.invalidate()

    @property
    def driver(self) -> Driver:
        """The family the token belongs to."""
        return self.link.driver

    @property
    def settings(self) -> Settings:
        """Those in force when the token was found."""
        return self.link.settings

    @property
    def revision(self) -> int:
        """A number that changes with the objects on the token: what was derived from them before holds no longer."""
        return self._revision

    def info(self) -> TokenInfo:
        """Return the token's information as it is now; as it was at the login where it cannot be read any more.

        SoftHSM2 cannot read a token after a login that it could not write down; it signs all the same.

        Raises:
            TokenRemoved: another token, or none, is in the slot.
        """
        link, known = self.link, self._owner.info
        return link.info() if known is None else said_after(link, known)

    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms that the token offers."""
        return self.link.mechanisms()

    def pin_state(self) -> PinState:
        """Return what is known of the PIN; spends no attempt."""
        return self.link.pin.state(self.info())

    def certificates(self, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects on the token; at least those with ``key_id``, where that is known."""
        found = self.link.certificates(key_id)
        self._seen[key_id], self._seen_at = frozenset((record.der, record.label) for record in found), time.monotonic()
        return found

    def keys(self, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the key objects on the token, without their secrets; at least those with ``key_id``."""
        return self.link.keys(key_id)

    def unread(self) -> tuple[ObjectProblem, ...]:
        """Return what cannot be read of the objects on the token."""
        return self.link.contents().problems

    def refresh(self) -> None:
        """Look whether the token's certificates have changed: another process may have renewed one.

        They are listed every two seconds at most; if they differ, :attr:`revision` changes.
        """
        if time.monotonic() - self._seen_at < _LOOK_S:
            return
        known = dict(self._seen)
        if None in known:  # all were looked at, and so those of one id
            known = {None: known[None]}
        for key_id in known:
            self.certificates(key_id)
        if not known or any(self._seen.get(key_id) != seen for key_id, seen in known.items()):
            LOG.debug("the certificates on the token are not those that were known")
            self.invalidate()

    def invalidate(self) -> None:
        """Take it that the objects on the token have changed: something was not there that was listed before."""
        self._revision += 1
        self._checked.clear()
        self._seen = {}

    def generate(self, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool) -> PublicKey:
        """Make a signature key pair on the token.

        Args:
            kind: of key.
            bits: the length of an RSA modulus; 0 for EC.
            key_id: its id on the token (CKA_ID).
            label: its label.
            always_authenticate: the token will want the PIN for every signature.

        Raises:
            KeyGenerationUnavailable: this token's module cannot make keys.
            TokenError: as the token says.
        """
        if not self.driver.capabilities.generate:
            raise errors.KeyGenerationUnavailable(driver=self.driver.id)
        with self._changing():
            return self.link.module.generate(
                self.login_id, kind, bits, key_id, label, always_authenticate=always_authenticate
            )

    def write_certificate(self, facts: CertificateFacts, key_id: bytes, label: str) -> int:
        """Write a certificate object; return its handle.

        Raises:
            TokenError: as the token says; ``TokenFull``: there is no room.
        """
        names = {"subject": facts.subject, "issuer": facts.issuer, "serial": integer(facts.serial)}
        with self._changing():
            return self.link.module.write_certificate(self.login_id, facts.der, key_id=key_id, label=label, **names)

    def relabel(self, handle: int, label: str) -> None:
        """Give an object another label; many tokens refuse that.

        Raises:
            TokenError: as the token says.
        """
        with self._changing():
            self.link.module.relabel(self.login_id, handle, label)

    def destroy(self, objects: Iterable[KeyRecord | CertificateRecord]) -> None:
        """Remove objects from the token, one after the other.

        Raises:
            TokenError: as the token says; those before it are gone.
        """
        with self._changing():
            for one in objects:
                self.link.module.destroy(self.login_id, one.handle)

    def sign(self, call: SignCall, patience: Patience = PATIENCE) -> bytes:
        """Have the token sign once. A payment is signed by :func:`ushield_hw.sign` only; internal.

        Raises:
            PinError, TokenError, ConfirmationError, OutcomeUnknown: as :meth:`TokenBackend.sign`.
        """
        return self.link.module.sign(self.login_id, call, patience)

    def was_checked(self, handle: int, spki: bytes) -> bool:
        """Tell whether a signature by a key has verified under a public key since the objects were read."""
        return (handle, spki) in self._checked

    def note_checked(self, handle: int, spki: bytes) -> None:
        """Note that it has."""
        self._checked.add((handle, spki))

    @contextmanager
    def noticing_removal(self) -> Iterator[None]:
        """Say that the token was removed where that is why a call in the block has failed.

        Raises:
            TokenRemoved: that, whatever the module said.
        """
        with self.link.noticing_removal():
            yield

    def is_removed_after(self, error: errors.UShieldError) -> bool:
        """Tell whether a call failed because the token was removed, though its module did not say so."""
        return self.link.is_gone_after(error)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        finally:  # a call that failed may have done something all the same
            self.invalidate()

    def __repr__(self) -> str:
        return f"<Session serial={self.serial!r}{' closed' if self._closed else ''}>"


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
            owner.hold(opened(link, interaction, purpose))
            owner.users, owner.replaced = 0, None
        owner.users += 1
        return Session(owner.link, interaction, owner)
