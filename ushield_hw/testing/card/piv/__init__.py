"""A virtual PIV card for OpenSC, and a YubiKey's PIV application for ykcs11.

::

    memory = blank(12345678, pin="123456", puk="12345678")
    hold(memory, Slot.AUTHENTICATION, private_key, certificate)
    with PcscHost([READER]) as host:
        host.insert(YubiKey(memory))
"""

from ushield_hw.testing.card.piv.card import PivCard
from ushield_hw.testing.card.piv.contents import Reference, Slot, blank, hold
from ushield_hw.testing.card.piv.yubikey import READER, YubiKey

__all__ = ["READER", "PivCard", "Reference", "Slot", "YubiKey", "blank", "hold"]
