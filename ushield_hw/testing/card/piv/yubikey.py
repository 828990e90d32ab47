"""The PIV application of a YubiKey, as far as ykcs11 uses it.

Its extensions to the standard are described at developers.yubico.com/PIV/Introduction/Yubico_extensions.html.
"""

from __future__ import annotations

from typing import Final

from ushield_hw.testing.card import apdu
from ushield_hw.testing.card.apdu import Command, Refused, tlv
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.panel import Panel
from ushield_hw.testing.card.piv.card import MANAGEMENT_KEY, TRIPLE_DES, PivCard
from ushield_hw.testing.card.piv.contents import MANAGEMENT, Reference, Slot, wants_touch

READER: Final = "Yubico YubiKey CCID"
"""Required reader name: ykcs11 ignores readers with other names."""

METADATA: Final = 0xF7
SERIAL: Final = 0xF8
ATTEST: Final = 0xF9
VERSION: Final = 0xFD
SET_MANAGEMENT_KEY: Final = 0xFF

_FIRMWARE: Final = bytes((5, 4, 3))
_PIN_NEVER, _PIN_ONCE, _PIN_ALWAYS = 1, 2, 3
_TOUCH_NEVER, _TOUCH_ALWAYS = 1, 2
_GENERATED: Final = 1


class YubiKey(PivCard):
    """A card for a reader named :data:`READER`. Arguments and attributes as for :class:`PivCard`."""

    atr = bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940")

    _untouched = apdu.SECURITY_NOT_SATISFIED

    def __init__(self, memory: Memory, panel: Panel | None = None) -> None:
        super().__init__(memory, panel)
        self._commands |= {
            VERSION: lambda _command: _FIRMWARE,
            SERIAL: lambda _command: int(self.memory.serial).to_bytes(4),
            METADATA: self._metadata,
            ATTEST: self._attest,
            SET_MANAGEMENT_KEY: self._set_management,
        }

    def _metadata(self, command: Command) -> bytes:
        if command.p2 in set(Reference):
            secret = self.secret(command.p2)
            return tlv(0x01, b"\xff") + tlv(0x05, b"\0") + tlv(0x06, bytes((secret.most, secret.left)))
        if command.p2 == MANAGEMENT_KEY:
            default = bytes((self.memory.notes["management"] == MANAGEMENT.hex(),))
            return tlv(0x01, bytes((TRIPLE_DES,))) + tlv(0x02, bytes((0, _TOUCH_NEVER))) + tlv(0x05, default)
        key = self.key(command.p2)
        pin = {Slot.SIGNATURE: _PIN_ALWAYS, Slot.CARD_AUTHENTICATION: _PIN_NEVER}.get(Slot(command.p2), _PIN_ONCE)
        touch = _TOUCH_ALWAYS if wants_touch(self.memory, command.p2) else _TOUCH_NEVER
        about = tlv(0x01, bytes((key.algorithm,))) + tlv(0x02, bytes((pin, touch)))
        return about + tlv(0x03, bytes((_GENERATED,))) + tlv(0x04, key.public)

    def _attest(self, _command: Command) -> bytes:
        """Refuse attestation: the key is not a genuine YubiKey's."""
        raise Refused(apdu.WRONG_DATA)

    def _set_management(self, command: Command) -> bytes:
        self._needs_manager()
        head, key = command.data[:3], command.data[3:]
        if command.p1 != 0xFF:
            raise Refused(apdu.WRONG_PARAMETERS)
        if head != bytes((TRIPLE_DES, MANAGEMENT_KEY, 24)) or len(key) != 24:
            raise Refused(apdu.WRONG_DATA)
        self.memory.notes["management"] = key.hex()
        self.memory.save()
        return b""
