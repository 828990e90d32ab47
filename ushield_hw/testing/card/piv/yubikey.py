"""A YubiKey's PIV application, as far as ykcs11 asks for it.

What it adds to the standard is described at developers.yubico.com/PIV/Introduction/Yubico_extensions.html.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ushield_hw.testing.card.apdu import (
    SECURITY_NOT_SATISFIED,
    WRONG_DATA,
    WRONG_PARAMETERS,
    Command,
    Refused,
    tlv,
)
from ushield_hw.testing.card.piv.card import MANAGEMENT_KEY, TRIPLE_DES, PivCard
from ushield_hw.testing.card.piv.chip import DEFAULT_MANAGEMENT, Chip, Reference, Slot

READER: Final = "Yubico YubiKey CCID"
"""ykcs11 looks at no reader with another name."""

METADATA: Final = 0xF7
SERIAL: Final = 0xF8
ATTEST: Final = 0xF9
VERSION: Final = 0xFD
SET_MANAGEMENT_KEY: Final = 0xFF

_FIRMWARE: Final = bytes((5, 4, 3))
_PIN_NEVER, _PIN_ONCE, _PIN_ALWAYS = 1, 2, 3
_TOUCH_NEVER, _TOUCH_ALWAYS = 1, 2
_GENERATED: Final = 1
_DEFAULT_PIN, _DEFAULT_PUK = b"123456", b"12345678"


class YubiKey(PivCard):
    """A card for a reader that is called :data:`READER`. Arguments and attributes as :class:`PivCard`."""

    atr = bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940")

    def __init__(self, chip: Chip, touch: Callable[[], bool] = lambda: True) -> None:
        super().__init__(chip, touch)
        self._commands |= {
            VERSION: lambda _command: _FIRMWARE,
            SERIAL: lambda _command: self.chip.serial.to_bytes(4),
            METADATA: self._metadata,
            ATTEST: self._attest,
            SET_MANAGEMENT_KEY: self._set_management,
        }

    @property
    def _untouched(self) -> int:
        return SECURITY_NOT_SATISFIED

    def _metadata(self, command: Command) -> bytes:
        if command.p2 in set(Reference):
            left, tries = self.chip.left(command.p2), self.chip.tries(command.p2)
            return tlv(0x01, b"\xff") + tlv(0x05, b"\0") + tlv(0x06, bytes((tries, left)))
        if command.p2 == MANAGEMENT_KEY:
            default = bytes((self.chip.management == DEFAULT_MANAGEMENT,))
            return tlv(0x01, bytes((TRIPLE_DES,))) + tlv(0x02, bytes((0, _TOUCH_NEVER))) + tlv(0x05, default)
        key = self.chip.key(command.p2)
        pin = {Slot.SIGNATURE: _PIN_ALWAYS, Slot.CARD_AUTHENTICATION: _PIN_NEVER}.get(Slot(command.p2), _PIN_ONCE)
        touch = _TOUCH_ALWAYS if self.chip.touched(command.p2) else _TOUCH_NEVER
        about = tlv(0x01, bytes((key.algorithm,))) + tlv(0x02, bytes((pin, touch)))
        return about + tlv(0x03, bytes((_GENERATED,))) + tlv(0x04, key.public)

    def _attest(self, _command: Command) -> bytes:
        """Refuse: nobody can vouch for a key that is no YubiKey's."""
        raise Refused(WRONG_DATA)

    def _set_management(self, command: Command) -> bytes:
        self._needs_manager()
        head, key = command.data[:3], command.data[3:]
        if command.p1 != 0xFF:
            raise Refused(WRONG_PARAMETERS)
        if head != bytes((TRIPLE_DES, MANAGEMENT_KEY, 24)) or len(key) != 24:
            raise Refused(WRONG_DATA)
        self.chip.management = key
        return b""
