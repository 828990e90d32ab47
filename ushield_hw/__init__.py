"""Use bank U-shields (U盾) and SoftHSM2 through one API: find a token, open it, sign an order, verify the result.

::

    import ushield_hw as us

    token = us.find_token(serial="…")
    order = us.Order.parse(data)
    with token.open(interaction) as session:
        signed = us.sign(order, session)
    us.verify(signed, trust=us.TrustStore.from_files([ca_pem]), expected=order)

The API is synchronous and thread-safe. Names are imported at first use, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ushield_hw import certificates, doctor, errors
    from ushield_hw.backend.interpreter import freeze_support
    from ushield_hw.backend.model import TokenInfo
    from ushield_hw.certificates import renewal
    from ushield_hw.cms import Confirmation, Profile
    from ushield_hw.config import Settings, load_settings
    from ushield_hw.errors import UShieldError
    from ushield_hw.interaction import ConfirmRequest, Interaction, PinKind, PinRequest, Silent, TokenAction
    from ushield_hw.messages import set_language, using_language
    from ushield_hw.order import Order, Rules
    from ushield_hw.pin_state import CountSource, PinState
    from ushield_hw.signing.journal import Journal, JournalEntry
    from ushield_hw.signing.order import Attendance, Journaling, SignedOrder, sign
    from ushield_hw.token.choice import find_token
    from ushield_hw.token.discovery import Survey, find_tokens, survey
    from ushield_hw.token.key_pairs import KeyChoice, Pair
    from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin
    from ushield_hw.token.session import Session
    from ushield_hw.token.token import Problem, Token
    from ushield_hw.token.watch import EventKind, TokenEvent, TokenWatch, watch_tokens
    from ushield_hw.verifier import Revocation, TrustStore, Verified, verify

__version__ = "0.1.0"

__all__ = [
    "Attendance",
    "ConfirmRequest",
    "Confirmation",
    "CountSource",
    "EventKind",
    "Interaction",
    "Journal",
    "JournalEntry",
    "Journaling",
    "KeyChoice",
    "Order",
    "Pair",
    "PinKind",
    "PinRequest",
    "PinState",
    "Problem",
    "Profile",
    "Revocation",
    "Rules",
    "Session",
    "Settings",
    "SignedOrder",
    "Silent",
    "Survey",
    "Token",
    "TokenAction",
    "TokenEvent",
    "TokenInfo",
    "TokenWatch",
    "TrustStore",
    "UShieldError",
    "Verified",
    "certificates",
    "change_pin",
    "doctor",
    "errors",
    "find_token",
    "find_tokens",
    "freeze_support",
    "load_settings",
    "renewal",
    "set_language",
    "sign",
    "survey",
    "unblock_pin",
    "using_language",
    "verify",
    "verify_pin",
    "watch_tokens",
]

# Name -> module that defines it.
_MODULES: Final = {
    "Attendance": "signing.order",
    "Confirmation": "cms",
    "ConfirmRequest": "interaction",
    "CountSource": "pin_state",
    "EventKind": "token.watch",
    "Interaction": "interaction",
    "Journal": "signing.journal",
    "Journaling": "signing.order",
    "JournalEntry": "signing.journal",
    "KeyChoice": "token.key_pairs",
    "Order": "order",
    "Pair": "token.key_pairs",
    "PinKind": "interaction",
    "PinRequest": "interaction",
    "PinState": "pin_state",
    "Problem": "token.token",
    "Profile": "cms",
    "Revocation": "verifier",
    "Rules": "order",
    "Session": "token.session",
    "Settings": "config",
    "SignedOrder": "signing.order",
    "Silent": "interaction",
    "Survey": "token.discovery",
    "Token": "token.token",
    "TokenAction": "interaction",
    "TokenEvent": "token.watch",
    "TokenInfo": "backend.model",
    "TokenWatch": "token.watch",
    "TrustStore": "verifier",
    "UShieldError": "errors",
    "Verified": "verifier",
    "change_pin": "token.pin_operations",
    "find_token": "token.choice",
    "find_tokens": "token.discovery",
    "freeze_support": "backend.interpreter",
    "load_settings": "config",
    "set_language": "messages",
    "using_language": "messages",
    "sign": "signing.order",
    "survey": "token.discovery",
    "unblock_pin": "token.pin_operations",
    "verify": "verifier",
    "verify_pin": "token.pin_operations",
    "watch_tokens": "token.watch",
}
_SUBPACKAGES: Final = {
    "certificates": "certificates",
    "doctor": "doctor",
    "errors": "errors",
    "renewal": "certificates.renewal",
}

if not TYPE_CHECKING:  # so that a type checker rejects names other than those above

    def __getattr__(name: str) -> object:
        if name in _SUBPACKAGES:
            found = import_module(f"{__name__}.{_SUBPACKAGES[name]}")
        elif name in _MODULES:
            found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found  # later accesses do not call this function
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
