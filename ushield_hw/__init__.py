"""Drive a bank's U-shield (U盾) and SoftHSM2 in the same way: find it, open it, sign an order, verify the result.

::

    import ushield_hw as us

    token = us.find_token(serial="…")
    order = us.Order.parse(data)
    with token.open(interaction) as session:
        signed = us.sign(order, session)
    us.verify(signed, trust=us.TrustStore.from_files([ca_pem]), expected=order)

Everything is synchronous and safe to call from several threads. Names are loaded when first used, so that importing the
package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ushield_hw.backend.interpreter import freeze_support
    from ushield_hw.errors import UShieldError
    from ushield_hw.interaction import Interaction, Silent
    from ushield_hw.order import Order
    from ushield_hw.signing.order import Attendance, SignedOrder, sign
    from ushield_hw.token.discovery import Token, find_token, find_tokens
    from ushield_hw.token.session import Session
    from ushield_hw.token.watch import TokenEvent, watch_tokens
    from ushield_hw.verifier import TrustStore, Verified, verify

__version__ = "0.1.0"

__all__ = [
    "Attendance",
    "Interaction",
    "Order",
    "Session",
    "SignedOrder",
    "Silent",
    "Token",
    "TokenEvent",
    "TrustStore",
    "UShieldError",
    "Verified",
    "find_token",
    "find_tokens",
    "freeze_support",
    "sign",
    "verify",
    "watch_tokens",
]

_HOMES: Final = {
    "Attendance": "signing",
    "Interaction": "interaction",
    "Order": "order",
    "Session": "session",
    "SignedOrder": "signing",
    "Silent": "interaction",
    "Token": "discovery",
    "TokenEvent": "watch",
    "TrustStore": "verifier",
    "UShieldError": "errors",
    "Verified": "verifier",
    "find_token": "discovery",
    "find_tokens": "discovery",
    "freeze_support": "cryptoki.interpreter",
    "sign": "signing",
    "verify": "verifier",
    "watch_tokens": "watch",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)  # once
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
