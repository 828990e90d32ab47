"""The link to a token: its module, slot and driver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ushield_hw import errors
from ushield_hw.backend.interface import TokenBackend
from ushield_hw.backend.model import CertificateRecord, Contents, Identity, KeyRecord, SlotInfo, TokenInfo
from ushield_hw.config import Settings
from ushield_hw.drivers.family import Driver
from ushield_hw.token.pin_guard import PinGuard

_NOTICED_S: Final = 0.6  # how long a module may take to detect that a token was removed

Key = tuple[TokenBackend, int, Identity | str]
"""The key under which a login is stored: module, slot and identity."""


@dataclass(frozen=True, slots=True)
class Link:
    """Module, slot and driver of a token. Internal: callers cannot sign with a payment key through it.

    Attributes:
        found_by: The module that enumerated the token; in a forked child that of the parent, see :attr:`module`.
        slot_id: The slot id in this module.
        serial: The serial number reported by the token.
        driver: The driver of the token's family.
        settings: The settings in force when the token was enumerated.
        identity: The identity that the token must still report, in addition to the serial number; None: no check.
    """

    found_by: TokenBackend
    slot_id: int
    serial: str
    driver: Driver
    settings: Settings
    identity: Identity | None = None

    @property
    def module(self) -> TokenBackend:
        """The module for this process: a token enumerated before a fork can be opened after it."""
        return self.found_by.in_this_process

    def info(self) -> TokenInfo:
        """Return the current token information.

        Raises:
            TokenRemoved: The slot is empty or holds another token.
        """
        info = self.module.token(self.slot_id)
        if not self.names(info):
            raise errors.TokenRemoved(serial=self.serial)
        return info

    def certificates(self, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the readable certificate objects; with ``key_id``, at least those with this CKA_ID."""
        return self.module.certificates(self.slot_id, key_id)

    def keys(self, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the readable key objects; with ``key_id``, at least those with this CKA_ID. Some need a login."""
        return self.module.keys(self.slot_id, key_id)

    def contents(self) -> Contents:
        """Return the readable objects, and the objects that could not be read."""
        return self.module.contents(self.slot_id)

    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms offered by the token."""
        return self.module.mechanisms(self.slot_id)

    def names(self, info: TokenInfo) -> bool:
        """Tell whether the token in the slot reports this identity; many tokens may share a serial number."""
        return info.serial == self.serial and self.identity in {None, info.identity}

    def is_gone_after(self, error: errors.UShieldError) -> bool:
        """Tell whether a call failed because the token was removed, although its module reported another error.

        OpenSC returns CKR_GENERAL_ERROR until it has detected the removal, which takes up to 0.4 s. Tokens stored in
        files are gone immediately.
        """
        if not error.failed_as(errors.Trait.VAGUE):
            return False
        until = time.monotonic() + (0.0 if self.module.needs_relist else _NOTICED_S)
        while True:
            try:
                if not any(self._may_hold(slot) for slot in self.module.slots()):
                    return True
            except errors.UShieldError:
                return False  # the module failed, not the token
            if time.monotonic() >= until:
                return False
            time.sleep(_NOTICED_S / 10)

    def _may_hold(self, slot: SlotInfo) -> bool:
        """Tell whether a slot holds or may hold the token: a slot that cannot be read may.

        SoftHSM2 can no longer read a token whose files it could not write.
        """
        if slot.token is not None:
            return self.names(slot.token)
        return slot.slot_id == self.slot_id and slot.problem is not None and not slot.absent

    @contextmanager
    def noticing_removal(self) -> Iterator[None]:
        """Raise ``TokenRemoved`` if a call in the block fails because the token was removed.

        Raises:
            TokenRemoved: The token was removed, whatever error the module reported.
        """
        try:
            yield
        except errors.UShieldError as error:
            if not isinstance(error, errors.TokenRemoved) and self.is_gone_after(error):
                raise errors.TokenRemoved(serial=self.serial) from error
            raise

    @property
    def pin(self) -> PinGuard:
        """The PIN guard of the token."""
        return PinGuard(self.info, self.identity, self.driver, self.settings, self.module.path)

    @property
    def key(self) -> Key:
        """The key under which the token's login is stored."""
        return self.module, self.slot_id, self.identity or self.serial

    def __repr__(self) -> str:
        return f"<Link serial={self.serial!r} slot={self.slot_id} driver={self.driver.id!r}>"
