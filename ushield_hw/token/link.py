"""Where a token is: its module, slot and family."""

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
from ushield_hw.drivers.catalogue import Driver
from ushield_hw.token.pin_guard import PinGuard

_NOTICED_S: Final = 0.6  # how long a module may take to notice that a token was removed

Key = tuple[TokenBackend, int, Identity | str]
"""What a login is filed under."""


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

    found_by: TokenBackend
    slot_id: int
    serial: str
    driver: Driver
    settings: Settings
    identity: Identity | None = None

    @property
    def module(self) -> TokenBackend:
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

    def certificates(self, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects that can be read; at least those with ``key_id``, where that is known."""
        return self.module.certificates(self.slot_id, key_id)

    def keys(self, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the key objects that can be read, at least those with ``key_id``; private ones may need a login."""
        return self.module.keys(self.slot_id, key_id)

    def contents(self) -> Contents:
        """Return the objects that can be read, and what could not be read of them."""
        return self.module.contents(self.slot_id)

    def mechanisms(self) -> tuple[str, ...]:
        """Return the names of the mechanisms that the token offers."""
        return self.module.mechanisms(self.slot_id)

    def names(self, info: TokenInfo) -> bool:
        """Tell whether a token in the slot is this one, as far as it says: a serial number alone may be of many."""
        return info.serial == self.serial and self.identity in {None, info.identity}

    def is_gone_after(self, error: errors.UShieldError) -> bool:
        """Tell whether a call failed because the token was pulled out, though its module did not say so.

        OpenSC answers CKR_GENERAL_ERROR until it has noticed, which takes it up to 0.4 s; what is in files is gone at
        once.
        """
        if not error.failed_as(errors.Trait.VAGUE):
            return False
        until = time.monotonic() + (0.0 if self.module.needs_relist else _NOTICED_S)
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
        return slot.slot_id == self.slot_id and slot.problem is not None and not slot.absent

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
    def key(self) -> Key:
        """What the login of this token is filed under."""
        return self.module, self.slot_id, self.identity or self.serial

    def __repr__(self) -> str:
        return f"<Link serial={self.serial!r} slot={self.slot_id} driver={self.driver.id!r}>"
