"""A PIV card, which OpenSC drives, and a YubiKey's PIV application, which ykcs11 drives too.

::

    personal = Personal(12345678, pin="123456", puk="12345678", keys={Slot.AUTHENTICATION: key})
    with Desk([READER]) as desk:
        desk.insert(YubiKey(Chip(memory, personal)))
"""

from ushield_hw.testing.card.piv.card import PivCard
from ushield_hw.testing.card.piv.chip import Chip, Personal, Reference, Slot
from ushield_hw.testing.card.piv.yubikey import READER, YubiKey

__all__ = ["READER", "Chip", "Personal", "PivCard", "Reference", "Slot", "YubiKey"]
