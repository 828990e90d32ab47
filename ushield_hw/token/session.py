"""Sessions: an open token, with one login shared by all sessions of this token in the process.

A second :func:`open_session` of the same token neither prompts for nor checks a PIN. The login ends when the last
session is closed, when the token is removed, or after an incorrect per-signature PIN.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ushield_hw import errors
from ushield_hw.backend.interface import DEFAULT_OPTIONS, SignOptions
from ushield_hw.backend.model import (
    CertificateRecord,
    Identity,
    KeyRecord,
    ObjectProblem,
    SignCall,
    TokenInfo,
)
from ushield_hw.config import Settings
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.der import integer
from ushield_hw.crypto.public_key import PublicKey
from ushield_hw.drivers.family import ConfirmText, Driver
from ushield_hw.interaction import Interaction, PinState
from ushield_hw.system.hardening import forgetting
from ushield_hw.system.log import LOG
from ushield_hw.token.link import Link
from ushield_hw.token.login import Owner, Standing, logged_in, opened, owner_of, said_after

if TYPE_CHECKING:
    from ushield_hw.cms import CertificateFacts

_LOOK_S: Final = 2.0  # minimum interval between two checks for changed certificates


class Session:
    """An open token. Close it, or use it as a context manager. Safe to use from several threads.

    After :meth:`close`, the methods that need the login raise ``TokenError`` (``SESSION_CLOSED``). In a forked child
    every method except :meth:`close` raises ``DriverError`` (``USED_AFTER_FORK``): open the token again there.

    Attributes:
        serial: The serial number reported by the token.
        interaction: Callbacks for PIN prompts and confirmation.
    """

    def __init__(self, link: Link, interaction: Interaction, owner: Owner) -> None:
        self._opened = link
        self._owner = owner
        self._login_id = owner.login_id
        self._pid = os.getpid()
        self._closed = False
        self._seen: dict[bytes | None, frozenset[tuple[bytes, str]]] = {}  # by the CKA_ID that was searched for
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
        """Close this session; the last session of a token logs out. Idempotent.

        Errors of the logout are logged, not raised. In a forked child this does nothing: the session belongs to the
        parent.
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
        """The identity reported by the token; files about the token on this host are named by it."""
        return self.link.identity or self.link.info().identity

    @property
    def link(self) -> Link:
        """Module, slot and driver of the token. Internal to this library.

        Raises:
            DriverError: ``USED_AFTER_FORK``.
        """
        if self._pid != os.getpid():
            raise errors.DriverError("USED_AFTER_FORK", path=str(self._opened.found_by.path))
        return self._opened

    @property
    def login_id(self) -> int:
        """The id of the login that this session uses. Internal to this library.

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
        """Return the id of the login in use; if the session was opened without a login, the id of a later login."""
        if self._login_id is not None and self._login_id == self._owner.replaced:
            self._opened, self._login_id = self._owner.link, self._owner.login_id
        return self._login_id

    @property
    def shows_all(self) -> bool:
        """Whether all objects are visible: the user is logged in, or the token does not support a login."""
        return self._owner.standing is not Standing.NOT_NEEDED

    def log_in(self, purpose: str) -> None:
        """Log in to a token that was opened without a login. Does nothing if the session has a login.

        Args:
            purpose: Shown in the PIN prompt.

        Raises:
            TokenError: ``SESSION_CLOSED``.
            PinError, TokenError, DriverError, StorageError: As for :func:`open_session`. The session stays open.
        """
        with self._owner.lock:
            self.login_id  # noqa: B018 - raises if the session is closed
            if self._owner.standing is not Standing.NOT_NEEDED:
                return
            owner, former = self._owner, self._owner.login_id
            owner.hold(logged_in(self.link, self.interaction, purpose, None))
            owner.replaced = former
            self.invalidate()

    @property
    def driver(self) -> Driver:
        """The driver of the token's family."""
        return self.link.driver

    @property
    def settings(self) -> Settings:
        """The settings in force when the token was enumerated."""
        return self.link.settings

    @property
    def revision(self) -> int:
        """A number that changes when the objects on the token change; it invalidates everything cached from them."""
        return self._revision

    def info(self) -> TokenInfo:
        """Return the current token information; if it can no longer be read, the information read at login.

        SoftHSM2 cannot read a token after a login that it could not write to disk, but still signs.

        Raises:
            TokenRemoved: The slot is empty or holds another token.
            TokenError, DriverError: The token cannot be read.
        """
        link, known = self.link, self._owner.info
        return link.info() if known is None else said_after(link, known)

    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms offered by the token.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.mechanisms()

    def pin_state(self) -> PinState:
        """Return the state of the PIN. Uses no attempt.

        Raises:
            TokenError, DriverError: The token cannot be read.
            StorageError: The attempt counter on this host cannot be read.
        """
        return self.link.pin.state(self.info())

    def certificates(self, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects on the token.

        Args:
            key_id: A CKA_ID. The result holds at least the objects with it, and may hold others. None: all objects.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        found = self.link.certificates(key_id)
        self._seen[key_id], self._seen_at = frozenset((record.der, record.label) for record in found), time.monotonic()
        return found

    def keys(self, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the key objects on the token, without secret attributes.

        Args:
            key_id: A CKA_ID. The result holds at least the objects with it, and may hold others. None: all objects.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.keys(key_id)

    def unread(self) -> tuple[ObjectProblem, ...]:
        """Return the objects on the token that cannot be read.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        return self.link.contents().problems

    def refresh(self) -> None:
        """Check whether the token's certificates have changed: another process may have renewed one.

        The certificates are listed at most every two seconds. If they differ, :attr:`revision` changes.

        Raises:
            TokenError, DriverError: The token cannot be read.
        """
        if time.monotonic() - self._seen_at < _LOOK_S:
            return
        known = dict(self._seen)
        if None in known:  # the full list includes the certificates of each id
            known = {None: known[None]}
        for key_id in known:
            self.certificates(key_id)
        if not known or any(self._seen.get(key_id) != seen for key_id, seen in known.items()):
            LOG.debug("the certificates on the token are not those that were known")
            self.invalidate()

    def invalidate(self) -> None:
        """Drop all cached state about the token's objects and raise :attr:`revision`."""
        self._revision += 1
        self._checked.clear()
        self._seen = {}

    def generate(self, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool) -> PublicKey:
        """Generate a signature key pair on the token.

        Args:
            kind: The kind of key.
            bits: The length of the RSA modulus; 0 for EC.
            key_id: The CKA_ID of the new key.
            label: The label of the new key.
            always_authenticate: Whether the token requires the PIN for every signature (CKA_ALWAYS_AUTHENTICATE).

        Returns:
            The public key.

        Raises:
            KeyGenerationUnavailable: The token's module cannot generate keys.
            TokenError: The error reported by the token.
        """
        if not self.driver.capabilities.generate:
            raise errors.KeyGenerationUnavailable(driver=self.driver.id)
        with self._changing():
            return self.link.module.generate(
                self.login_id, kind, bits, key_id, label, always_authenticate=always_authenticate
            )

    def write_certificate(self, facts: CertificateFacts, key_id: bytes, label: str) -> int:
        """Write a certificate object.

        Args:
            facts: The certificate.
            key_id: The CKA_ID of the object.
            label: The label of the object.

        Returns:
            The object handle.

        Raises:
            TokenFull: The token has no free space.
            TokenError: The error reported by the token.
        """
        names = {"subject": facts.subject, "issuer": facts.issuer, "serial": integer(facts.serial)}
        with self._changing():
            return self.link.module.write_certificate(self.login_id, facts.der, key_id=key_id, label=label, **names)

    def relabel(self, handle: int, label: str) -> None:
        """Change the label of an object. Many tokens refuse this.

        Args:
            handle: The object handle.
            label: The new label.

        Raises:
            TokenError: The error reported by the token.
        """
        with self._changing():
            self.link.module.relabel(self.login_id, handle, label)

    def destroy(self, objects: Iterable[KeyRecord | CertificateRecord]) -> None:
        """Delete objects from the token, one by one.

        Args:
            objects: The key and certificate objects to delete.

        Raises:
            TokenError: The error reported by the token. The objects before the failed one are deleted.
        """
        with self._changing():
            for one in objects:
                self.link.module.destroy(self.login_id, one.handle)

    def sign(self, call: SignCall, options: SignOptions = DEFAULT_OPTIONS) -> bytes:
        """Make one signature. Internal: payments are signed only by :func:`ushield_hw.sign`.

        Args:
            call: Key, mechanism and data.
            options: Deadline and callbacks while the token waits for the user.

        Returns:
            The signature as C_Sign returns it.

        Raises:
            PinError, TokenError, ConfirmationError, OutcomeUnknown: As for :meth:`TokenBackend.sign`.
        """
        return self.link.module.sign(self.login_id, call, options)

    def was_checked(self, handle: int, spki: bytes) -> bool:
        """Tell whether a signature by a key has been verified since the objects were read.

        Args:
            handle: The handle of the private key.
            spki: The public key, SubjectPublicKeyInfo, DER.
        """
        return (handle, spki) in self._checked

    def note_checked(self, handle: int, spki: bytes) -> None:
        """Record that a signature by a key has been verified.

        Args:
            handle: The handle of the private key.
            spki: The public key, SubjectPublicKeyInfo, DER.
        """
        self._checked.add((handle, spki))

    @contextmanager
    def noticing_removal(self) -> Iterator[None]:
        """Raise ``TokenRemoved`` if a call in the block fails because the token was removed.

        Raises:
            TokenRemoved: The token was removed, whatever error the module reported.
        """
        with self.link.noticing_removal():
            yield

    def is_removed_after(self, error: errors.UShieldError) -> bool:
        """Tell whether a call failed because the token was removed, although its module reported another error.

        Args:
            error: The error of the call.
        """
        return self.link.is_gone_after(error)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        finally:  # a failed call may still have changed something
            self.invalidate()

    def __repr__(self) -> str:
        return f"<Session serial={self.serial!r}{' closed' if self._closed else ''}>"


@forgetting
def open_session(link: Link, interaction: Interaction, purpose: str) -> Session:
    """Log in to a token and return a session, or share the login that this process already has.

    Args:
        link: The token.
        interaction: Callbacks for PIN prompts and confirmation.
        purpose: Shown in the PIN prompt. With ``sign``, a token that requires no login and shows its private keys is
            opened without one.

    Raises:
        PinError: No session was opened; the error carries the state of the PIN.
        TokenError, DriverError, StorageError: No session was opened.
        InputError: ``DESCRIPTOR_NEEDS_CONSENT``: a descriptor that needs consent declares that the token displays what
            it signs, and the configuration has no consent for it.
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
